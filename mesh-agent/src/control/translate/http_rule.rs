//! One rule of an HTTPRoute: its matches, filters, backends and time limits.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: which Services exist.

use std::time::Duration;

use gateway_api::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPathType,
    HttpRouteRulesMatchesQueryParamsType,
};
use http::StatusCode;
use serde_json::Value;

use super::object::{Object, unknown_fields};
use super::route_filter;
use super::route_rule::{Carried, Rule};
use super::session_persistence;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{FieldMatch, HttpMatch, HttpRule, PathMatch, RetryOn, RetryPolicy, RuleAction};

pub(super) fn translate(
    object: &Object,
    index: usize,
    rule: &Value,
    rejections: &mut Vec<Rejection>,
) -> Result<HttpRule, Rejection> {
    let mut reading = Rule {
        object,
        at: format!("spec.rules[{index}]"),
        rejections,
        is_refused: false,
        carried: Carried::Requests,
    };
    if !rule.is_object() {
        return Err(object.reject(&reading.at, "expected a mapping"));
    }
    for field in unknown_fields(
        rule,
        &[
            "name",
            "matches",
            "filters",
            "backendRefs",
            "timeouts",
            "retry",
            "sessionPersistence",
        ],
    ) {
        reading.refuse(field);
    }
    let timeouts = rule.get("timeouts").unwrap_or(&Value::Null);
    for field in unknown_fields(timeouts, &["request", "backendRequest"]) {
        reading.ignore(&format!("timeouts.{field}"));
    }
    let matches = matches(&mut reading, rule.get("matches"))?;
    let filters = route_filter::of_rule(&mut reading, rule.get("filters"))?;
    let backends = reading.backends(rule.get("backendRefs"))?;
    let request_timeout = timeout(&reading, timeouts, "request")?;
    let attempt_timeout = timeout(&reading, timeouts, "backendRequest")?;
    if let (Some(request), Some(attempt)) = (request_timeout, attempt_timeout)
        && attempt > request
        && !request.is_zero()
    {
        return Err(reading.malformed("timeouts.backendRequest", "is longer than timeouts.request"));
    }
    let retry = retry(&mut reading, rule.get("retry"))?;
    let session = session_persistence::read(&mut reading, rule.get("sessionPersistence"))?;
    if filters.redirect.is_some() && !backends.is_empty() {
        reading.refuse_because("backendRefs", "a rule that redirects has no backend");
    }
    let action = match filters.redirect {
        _ if reading.is_refused => RuleAction::Forward(Vec::new()),
        Some(redirect) => RuleAction::Redirect(redirect),
        None => RuleAction::Forward(backends),
    };
    Ok(HttpRule {
        name: rule.get("name").and_then(Value::as_str).map(Into::into),
        matches,
        filters: filters.filters,
        cors: filters.cors.filter(|_| !reading.is_refused),
        fault: None,
        action,
        request_timeout,
        attempt_timeout,
        retry,
        session,
    })
}

/// `retry` (GEP-1731). What is no answer is tried again too, as the API asks ("on connection errors (disconnect, reset,
/// timeout, TCP failure) if a retry stanza is configured"). Its `backoff` is the least pause between two attempts; up to ten times as much comes on top.
fn retry(reading: &mut Rule<'_>, part: Option<&Value>) -> Result<Option<RetryPolicy>, Rejection> {
    let Some(part) = part.filter(|part| !part.is_null()) else {
        return Ok(None);
    };
    for field in unknown_fields(part, &["codes", "attempts", "backoff"]) {
        reading.ignore(&format!("retry.{field}"));
    }
    let declared: Retry = reading
        .object
        .parse_part(part, &format!("{}.retry", reading.at))?;
    let attempts = declared.attempts.unwrap_or(DEFAULT_ATTEMPTS);
    if attempts == 0 {
        return Err(reading.malformed("retry.attempts", "at least 1"));
    }
    let mut on = vec![RetryOn::Reset];
    for (index, code) in declared.codes.into_iter().enumerate() {
        let status = StatusCode::from_u16(code)
            .ok()
            .filter(|_| (400..600).contains(&code));
        let status = status.ok_or_else(|| {
            reading.malformed(
                &format!("retry.codes[{index}]"),
                "expected a status from 400 to 599",
            )
        })?;
        on.push(RetryOn::Status(status));
    }
    let backoff = duration(reading, part, "retry", "backoff")?;
    Ok(Some(RetryPolicy {
        attempts,
        on,
        backoff: backoff.unwrap_or(DEFAULT_BACKOFF),
        least_pause: backoff.unwrap_or_default(),
        avoids_previous: true,
        leaves_localities: false,
    }))
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Retry {
    #[serde(default)]
    codes: Vec<u16>,
    attempts: Option<u32>,
}

fn timeout(reading: &Rule<'_>, timeouts: &Value, field: &str) -> Result<Option<Duration>, Rejection> {
    duration(reading, timeouts, "timeouts", field)
}

/// A duration as Gateway API writes it (GEP-2257): `field` of a part that is called `of`.
pub(super) fn duration(
    reading: &Rule<'_>,
    part: &Value,
    of: &str,
    field: &str,
) -> Result<Option<Duration>, Rejection> {
    let Some(written) = part.get(field).filter(|written| !written.is_null()) else {
        return Ok(None);
    };
    let invalid = |reason: String| reading.malformed(&format!("{of}.{field}"), reason);
    let text = written
        .as_str()
        .ok_or_else(|| invalid("expected a duration such as \"1s500ms\"".to_owned()))?;
    let duration = text.parse::<gateway_api::Duration>().map_err(invalid)?;
    Ok(Some(Duration::new(duration.as_secs(), duration.subsec_nanos())))
}

fn matches(reading: &mut Rule<'_>, list: Option<&Value>) -> Result<Vec<HttpMatch>, Rejection> {
    let list = reading.list("matches", list)?;
    if list.is_empty() {
        return Ok(vec![HttpMatch::default()]);
    }
    list.iter()
        .enumerate()
        .map(|(index, part)| one_match(reading, index, part))
        .collect()
}

fn one_match(reading: &mut Rule<'_>, index: usize, part: &Value) -> Result<HttpMatch, Rejection> {
    let at = format!("matches[{index}]");
    let field = format!("{}.{at}", reading.at);
    let declared: HttpRouteRulesMatches = reading.object.parse_part(part, &field)?;
    for field in unknown_fields(part, &["path", "headers", "method", "queryParams"]) {
        reading.refuse(&format!("{at}.{field}"));
    }
    let path = declared.path.unwrap_or_default();
    let value = path.value.unwrap_or_else(|| "/".to_owned());
    let path = match path.r#type.unwrap_or(HttpRouteRulesMatchesPathType::PathPrefix) {
        HttpRouteRulesMatchesPathType::RegularExpression => {
            PathMatch::Regex(reading.pattern(&format!("{at}.path.value"), &value)?)
        }
        _ if !value.starts_with('/') => {
            return Err(reading.malformed(&format!("{at}.path.value"), "a path begins with '/'"));
        }
        HttpRouteRulesMatchesPathType::Exact => PathMatch::Exact(value.into()),
        HttpRouteRulesMatchesPathType::PathPrefix => PathMatch::Prefix(value.into()),
    };
    let headers = declared.headers.into_iter().flatten().enumerate();
    let headers = headers.map(|(index, header)| {
        let is_regex = matches!(
            header.r#type,
            Some(HttpRouteRulesMatchesHeadersType::RegularExpression)
        );
        reading.header(
            &format!("{at}.headers[{index}]"),
            &header.name,
            &header.value,
            is_regex,
        )
    });
    let headers = headers.collect::<Result<_, _>>()?;
    let query = declared.query_params.into_iter().flatten().enumerate();
    let query = query.map(|(index, parameter)| {
        let is_regex = matches!(
            parameter.r#type,
            Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression)
        );
        let at = format!("{at}.queryParams[{index}]");
        Ok(FieldMatch {
            name: parameter.name.into(),
            value: reading.value(&at, &parameter.value, is_regex)?,
        })
    });
    let query = query.collect::<Result<_, Rejection>>()?;
    let method = part.get("method").and_then(Value::as_str).map(Into::into);
    Ok(HttpMatch {
        path,
        headers,
        query,
        method,
        further: None,
    })
}

/// Istio's default; the API leaves it to us.
const DEFAULT_ATTEMPTS: u32 = 2;
/// Envoy's default.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
