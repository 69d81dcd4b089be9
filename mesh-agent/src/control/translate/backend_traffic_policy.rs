//! Gateway API's `XBackendTrafficPolicy` (GEP-3388, experimental): how many further attempts a Service
//! may be asked for, and what keeps clients at one of its endpoints.
//!
//! Place in the walk: becomes a part of Services' traffic policy when a snapshot is built. Must not know: which Services
//! there are.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::object::{Object, unknown_fields};
use super::route_rule::{Carried, Rule};
use super::session_persistence;
use crate::mesh::facts::Rejection;
use crate::mesh::service::ServiceName;
use crate::mesh::traffic::{BackendTrafficPolicy, RetryConstraint};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    target_refs: Vec<Value>,
    retry_constraint: Option<Constraint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Constraint {
    budget: Budget,
    min_retry_rate: Rate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Budget {
    percent: Option<u32>,
    interval: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rate {
    count: Option<u32>,
    interval: Option<String>,
}

#[derive(Debug, Deserialize)]
struct TargetRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

/// `None` for a policy without an effect.
pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<BackendTrafficPolicy>, Rejection> {
    let spec: Spec = object.parse_part(object.spec(), "spec")?;
    let known = ["targetRefs", "retryConstraint", "sessionPersistence"];
    let unknown = unknown_fields(object.spec(), &known);
    rejections.extend(unknown.map(|field| object.unsupported(&format!("spec.{field}"))));
    let constraint = spec.retry_constraint.as_ref();
    let retries = constraint.map(|written| retries(object, written)).transpose()?;
    let mut reading = Rule {
        object,
        at: "spec".to_owned(),
        rejections,
        is_refused: false,
        carried: Carried::Requests,
    };
    let session = session_persistence::read(&mut reading, object.spec().get("sessionPersistence"))?;
    if retries.is_none() && session.is_none() {
        return Ok(None);
    }
    let mut targets = Vec::new();
    for (index, target) in spec.target_refs.iter().enumerate() {
        let at = format!("spec.targetRefs[{index}]");
        let target: TargetRef = object.parse_part(target, &at)?;
        if target.kind == "Service" && matches!(target.group.as_str(), "" | "core") {
            let service = ServiceName::new(&object.namespace, &target.name);
            targets.push((format!("{at}.name").into(), service));
        } else {
            rejections.push(object.reject(
                &format!("{at}.kind"),
                "only Services can be targets here; ignored",
            ));
        }
    }
    Ok(Some(BackendTrafficPolicy {
        meta: Arc::clone(&object.meta),
        targets,
        retries,
        session,
    }))
}

/// With the bounds of the API's schema.
fn retries(object: &Object, written: &Constraint) -> Result<RetryConstraint, Rejection> {
    let default = RetryConstraint::default();
    let at = "spec.retryConstraint";
    let percent = written.budget.percent.unwrap_or(default.percent);
    if percent > 100 {
        return Err(object.reject(&format!("{at}.budget.percent"), "expected 0 to 100"));
    }
    let min_count = written.min_retry_rate.count.unwrap_or(default.min_count);
    if !(1..=1_000_000).contains(&min_count) {
        return Err(object.reject(
            &format!("{at}.minRetryRate.count"),
            "expected a number from 1 to 1000000",
        ));
    }
    let interval = |field: &str, written: Option<&str>, default| match written {
        None => Ok(default),
        Some(text) => interval(text).map_err(|reason| object.reject(&format!("{at}.{field}"), reason)),
    };
    Ok(RetryConstraint {
        percent,
        interval: interval(
            "budget.interval",
            written.budget.interval.as_deref(),
            default.interval,
        )?,
        min_count,
        min_interval: interval(
            "minRetryRate.interval",
            written.min_retry_rate.interval.as_deref(),
            default.min_interval,
        )?,
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    let read = text.parse::<gateway_api::Duration>()?;
    let interval = Duration::new(read.as_secs(), read.subsec_nanos());
    if (SHORTEST..=LONGEST).contains(&interval) {
        Ok(interval)
    } else {
        Err("expected 1s to 1h".to_owned())
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(1);
