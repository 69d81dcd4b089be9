//! Values that several parts of a VirtualService have: texts to compare, durations, percentages.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: which field it is.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::super::duration;
use super::super::route_rule::Rule;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{Pattern, Share, ValueMatch};

/// Istio's `StringMatch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Text {
    Exact(String),
    Prefix(String),
    Regex(String),
}

/// One of `exact`, `prefix` and `regex`.
pub(super) fn text(rule: &Rule<'_>, at: &str, part: &Value) -> Result<Text, Rejection> {
    rule.object.parse_part(part, &format!("{}.{at}", rule.at))
}

/// What a value must be; `{}` is any, as far as there is one.
pub(super) fn value_match(rule: &Rule<'_>, at: &str, part: &Value) -> Result<ValueMatch, Rejection> {
    if part.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(ValueMatch::Present);
    }
    Ok(match text(rule, at, part)? {
        Text::Exact(text) => ValueMatch::Exact(text.into()),
        Text::Prefix(text) if text.is_empty() => ValueMatch::Present,
        Text::Prefix(text) => ValueMatch::Prefix(text.into()),
        Text::Regex(written) => ValueMatch::Regex(pattern(rule, at, &written)?),
    })
}

pub(super) fn pattern(rule: &Rule<'_>, at: &str, written: &str) -> Result<Pattern, Rejection> {
    rule.pattern(&format!("{at}.regex"), written)
}

/// A part that may be absent.
pub(super) fn part<'v>(of: &'v Value, field: &str) -> Option<&'v Value> {
    of.get(field).filter(|part| !part.is_null())
}

/// A duration that may be absent; `at` is its own path.
pub(super) fn duration_at(
    rule: &Rule<'_>,
    at: &str,
    written: Option<&Value>,
) -> Result<Option<Duration>, Rejection> {
    let Some(written) = written.filter(|written| !written.is_null()) else {
        return Ok(None);
    };
    match written.as_str().and_then(duration::parse) {
        Some(duration) => Ok(Some(duration)),
        None => Err(rule.malformed(at, "expected a duration such as \"1.5s\"")),
    }
}

/// `percentage: {value: 0.1}`; `None` where it is absent. One in a million is the least.
pub(super) fn share(
    rule: &Rule<'_>,
    at: &str,
    percentage: Option<&Value>,
) -> Result<Option<Share>, Rejection> {
    let Some(percentage) = percentage.filter(|percentage| !percentage.is_null()) else {
        return Ok(None);
    };
    // A percentage without a value is zero, as protobuf has it.
    let written = percentage.get("value").map_or(Some(0.0), Value::as_f64);
    let numerator = written
        .filter(|percent| (0.0..=100.0).contains(percent))
        .and_then(|percent| format!("{:.0}", percent * 10_000.0).parse().ok());
    match numerator {
        Some(numerator) if percentage.is_object() => Ok(Some(Share {
            numerator,
            denominator: 1_000_000,
        })),
        Some(_) | None => Err(rule.malformed(at, "expected {value: PERCENT} with 0 to 100")),
    }
}
