//! Active health checks: an annotation of the Service, since neither Gateway API nor Istio has a word for them.
//!
//! Place in the walk: part of a Service. Must not know: endpoints, how they are asked.
//!
//! An annotation that is wrong anywhere is reported and counts for nothing: unasked endpoints are taken for healthy, and a
//! check that nobody meant could take all of them away.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use serde::Deserialize;

use super::duration;
use super::object::Object;
use crate::control::manifest;
use crate::mesh::facts::Rejection;
use crate::mesh::health_check::{HealthCheck, HttpQuestion, Question};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    http: Option<WrittenHttp>,
    tcp: Option<Nothing>,
    grpc: Option<WrittenGrpc>,
    port: Option<u16>,
    interval: Option<String>,
    timeout: Option<String>,
    no_traffic_interval: Option<String>,
    unhealthy_threshold: Option<u32>,
    healthy_threshold: Option<u32>,
    panic_threshold: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHttp {
    path: String,
    host: Option<String>,
    port: Option<u16>,
    expected_statuses: Option<Vec<Statuses>>,
    retriable_statuses: Option<Vec<Statuses>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {
    port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrpc {
    #[serde(default)]
    service: String,
    port: Option<u16>,
}

/// `200` or `"200-299"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Statuses {
    One(u16),
    Range(String),
}

/// What the Service asks for; `None` where it asks for nothing that can be read.
pub(super) fn of_service(object: &Object, rejections: &mut Vec<Rejection>) -> Option<HealthCheck> {
    let text = object.annotation(ANNOTATION)?;
    read(object, text)
        .map_err(|(field, reason)| {
            let reason = format!("{reason}; its endpoints are not checked");
            rejections.push(object.reject(&field, reason));
        })
        .ok()
}

/// A field and what is wrong with it.
type Wrong = (String, String);

fn read(object: &Object, text: &str) -> Result<HealthCheck, Wrong> {
    let written = written(object, text)?;
    let (question, part_port) = question(&written)?;
    let port = match (written.port, part_port) {
        (Some(_), Some(_)) => return Err(wrong("port", "written twice")),
        (port, part_port) => port.or(part_port),
    };
    if port == Some(0) {
        return Err(wrong("port", "0 is not a port; use 1 to 65535"));
    }
    let defaults = HealthCheck::new(question);
    let interval = time("interval", written.interval.as_deref(), defaults.interval)?;
    let count = |field: &str, count: Option<u32>, default, range: RangeInclusive<u32>| match count {
        None => Ok(default),
        Some(count) if range.contains(&count) => Ok(count),
        Some(count) => Err(wrong(
            field,
            &format!("{count} is not within {} to {}", range.start(), range.end()),
        )),
    };
    Ok(HealthCheck {
        port,
        interval,
        timeout: time("timeout", written.timeout.as_deref(), defaults.timeout)?,
        no_traffic_interval: time(
            "noTrafficInterval",
            written.no_traffic_interval.as_deref(),
            defaults.no_traffic_interval.max(interval),
        )?,
        unhealthy_threshold: count(
            "unhealthyThreshold",
            written.unhealthy_threshold,
            defaults.unhealthy_threshold,
            1..=MAX_THRESHOLD,
        )?,
        healthy_threshold: count(
            "healthyThreshold",
            written.healthy_threshold,
            defaults.healthy_threshold,
            1..=MAX_THRESHOLD,
        )?,
        panic_percent: count(
            "panicThreshold",
            written.panic_threshold,
            defaults.panic_percent,
            0..=100,
        )?,
        ..defaults
    })
}

fn written(object: &Object, text: &str) -> Result<Written, Wrong> {
    let (mut documents, unread) = manifest::documents(&object.meta.origin, text, false);
    if let Some(unread) = unread.into_iter().next() {
        return Err((FIELD.to_owned(), unread.reason));
    }
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) if document.value.is_object() => object
            .parse_part(&document.value, FIELD)
            .map_err(|rejection| (rejection.field, rejection.reason)),
        _ => Err((FIELD.to_owned(), "expected one mapping".to_owned())),
    }
}

fn question(written: &Written) -> Result<(Question, Option<u16>), Wrong> {
    match (&written.http, &written.tcp, &written.grpc) {
        (Some(http), None, None) => Ok((Question::Http(http_question(http)?), http.port)),
        (None, Some(tcp), None) => Ok((Question::Tcp, tcp.port)),
        (None, None, Some(grpc)) if grpc.service.len() > LONGEST => {
            Err(wrong("grpc.service", "longer than 1024 bytes"))
        }
        (None, None, Some(grpc)) => Ok((Question::Grpc(grpc.service.as_str().into()), grpc.port)),
        _ => Err((
            FIELD.to_owned(),
            "expected exactly one of http, tcp and grpc".to_owned(),
        )),
    }
}

fn http_question(written: &WrittenHttp) -> Result<HttpQuestion, Wrong> {
    let path = written.path.as_str();
    if !path.starts_with('/') || path.len() > LONGEST || path.parse::<PathAndQuery>().is_err() {
        return Err(wrong(
            "http.path",
            "expected a path that begins with / and has at most 1024 bytes",
        ));
    }
    if let Some(host) = &written.host
        && host.parse::<Authority>().is_err()
    {
        return Err(wrong("http.host", &format!("{host:?} is no host")));
    }
    let ranges = |field: &str, written: Option<&Vec<Statuses>>| {
        let read = written.map(|all| all.iter().map(Statuses::range).collect::<Option<Vec<_>>>());
        match read {
            None => Ok(None),
            Some(Some(ranges)) if (1..=MAX_RANGES).contains(&ranges.len()) => Ok(Some(ranges)),
            Some(_) => Err(wrong(
                field,
                "expected a list of up to 16 statuses from 100 to 599, or ranges such as \"200-299\"",
            )),
        }
    };
    let expected = ranges("http.expectedStatuses", written.expected_statuses.as_ref())?;
    let retriable = ranges("http.retriableStatuses", written.retriable_statuses.as_ref())?;
    Ok(HttpQuestion {
        path: path.into(),
        host: written.host.as_deref().map(Into::into),
        expected: expected.unwrap_or_else(|| vec![200..=200]),
        retriable: retriable.unwrap_or_default(),
    })
}

impl Statuses {
    fn range(&self) -> Option<RangeInclusive<u16>> {
        let range = match self {
            Self::One(status) => *status..=*status,
            Self::Range(text) => {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                first.parse().ok()?..=last.parse().ok()?
            }
        };
        let is_range = *range.start() >= 100 && *range.end() <= 599 && range.start() <= range.end();
        is_range.then_some(range)
    }
}

fn time(field: &str, written: Option<&str>, default: Duration) -> Result<Duration, Wrong> {
    let Some(text) = written else {
        return Ok(default);
    };
    duration::parse(text)
        .filter(|time| (SHORTEST..=LONGEST_TIME).contains(time))
        .ok_or_else(|| wrong(field, &format!("{text:?} is no duration from 50ms to 1h")))
}

fn wrong(field: &str, reason: &str) -> Wrong {
    (format!("{FIELD}.{field}"), reason.to_owned())
}

const ANNOTATION: &str = "mesh-agent.dev/health-check";
const FIELD: &str = "metadata.annotations[mesh-agent.dev/health-check]";
const MAX_THRESHOLD: u32 = 100;
const MAX_RANGES: usize = 16;
const LONGEST: usize = 1024;
/// More often would be a load of its own; tests are the only ones that want it so often.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST_TIME: Duration = Duration::from_hours(1);
