//! When requests of a Service are asked of a second endpoint too: annotation `mesh-agent.dev/hedge`.
//!
//! Place in the walk: read with the Service. Must not know: how a request is hedged.
//!
//! An annotation that is wrong in any field is reported and hedges nothing: no request is sent twice by mistake.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

use super::object::Object;
use super::{annotation, duration};
use crate::mesh::facts::Rejection;
use crate::mesh::hedge::Hedge;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    percentile: Option<u32>,
    min_delay: Option<String>,
    budget_percent: Option<u32>,
    max_attempts: Option<u32>,
    min_samples: Option<u32>,
    #[serde(default)]
    grpc: bool,
}

/// What the annotation says; `None` without one.
pub(super) fn translate(object: &Object) -> Result<Option<Hedge>, Rejection> {
    let Some(written) = annotation::read::<Written>(object, HEDGE)? else {
        return Ok(None);
    };
    let number = |name: &str, value: Option<u32>, allowed: RangeInclusive<u32>, default: u32| {
        let value = value.unwrap_or(default);
        if allowed.contains(&value) {
            return Ok(value);
        }
        let (least, most) = allowed.into_inner();
        Err(wrong(
            object,
            name,
            &format!("{value} is not from {least} to {most}"),
        ))
    };
    let default = Hedge::default();
    Ok(Some(Hedge {
        percentile: number("percentile", written.percentile, 50..=99, default.percentile)?,
        min_delay: delay(object, written.min_delay.as_deref(), default.min_delay)?,
        budget_percent: number(
            "budgetPercent",
            written.budget_percent,
            1..=100,
            default.budget_percent,
        )?,
        max_attempts: number("maxAttempts", written.max_attempts, 2..=5, default.max_attempts)?,
        min_samples: number(
            "minSamples",
            written.min_samples,
            10..=10_000,
            default.min_samples,
        )?,
        grpc: written.grpc,
    }))
}

fn delay(object: &Object, written: Option<&str>, default: Duration) -> Result<Duration, Rejection> {
    let Some(text) = written else {
        return Ok(default);
    };
    let allowed = Duration::from_millis(1)..=Duration::from_mins(1);
    duration::parse(text)
        .filter(|delay| allowed.contains(delay))
        .ok_or_else(|| {
            let reason = format!("{text:?} is no time from 1ms to 1m");
            wrong(object, "minDelay", &reason)
        })
}

fn wrong(object: &Object, name: &str, reason: &str) -> Rejection {
    let field = format!("{}.{name}", annotation::field(HEDGE));
    object.reject(&field, format!("{reason}; nothing is hedged"))
}

const HEDGE: &str = "mesh-agent.dev/hedge";
