//! `fault` of a rule of a VirtualService.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: anything but this field.

use http::StatusCode;
use serde_json::Value;

use super::super::object::unknown_fields;
use super::super::route_rule::Rule;
use super::text::{duration_at, part, share};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{Abort, Fault, Share};

/// What cannot be honoured is reported and left out: requests go where they should without it.
pub(super) fn fault(rule: &mut Rule<'_>, written: Option<&Value>) -> Result<Option<Fault>, Rejection> {
    let Some(written) = written.filter(|written| !written.is_null()) else {
        return Ok(None);
    };
    let mut fault = Fault::default();
    for field in unknown_fields(written, &["delay", "abort"]) {
        rule.ignore(&format!("fault.{field}"));
    }
    if let Some(delay) = part(written, "delay") {
        ignore_unknown(
            rule,
            "fault.delay",
            delay,
            &["fixedDelay", "percentage", "percent"],
        );
        let of = of_how_many(rule, "fault.delay", delay)?;
        let fixed = duration_at(rule, "fault.delay.fixedDelay", part(delay, "fixedDelay"))?;
        fault.delay = fixed.filter(|delay| !delay.is_zero()).map(|delay| (delay, of));
    }
    if let Some(abort) = part(written, "abort") {
        ignore_unknown(
            rule,
            "fault.abort",
            abort,
            &["httpStatus", "grpcStatus", "percentage", "percent"],
        );
        let of = of_how_many(rule, "fault.abort", abort)?;
        fault.abort = abort_with(rule, abort)?.map(|abort| (abort, of));
    }
    Ok((fault != Fault::default()).then_some(fault))
}

fn ignore_unknown(rule: &mut Rule<'_>, at: &str, part: &Value, known: &[&str]) {
    for field in unknown_fields(part, known) {
        rule.ignore(&format!("{at}.{field}"));
    }
}

/// `percentage`, or the older `percent`; without either none, as in Istio.
fn of_how_many(rule: &Rule<'_>, at: &str, written: &Value) -> Result<Share, Rejection> {
    let none = Share {
        numerator: 0,
        denominator: 1,
    };
    if let Some(share) = share(rule, &format!("{at}.percentage"), part(written, "percentage"))? {
        return Ok(share);
    }
    let Some(percent) = part(written, "percent") else {
        return Ok(none);
    };
    match percent.as_u64().map(u32::try_from) {
        Some(Ok(numerator @ 0..=100)) => Ok(Share {
            numerator,
            denominator: 100,
        }),
        _ => Err(rule.malformed(&format!("{at}.percent"), "expected 0 to 100")),
    }
}

fn abort_with(rule: &Rule<'_>, written: &Value) -> Result<Option<Abort>, Rejection> {
    match (part(written, "httpStatus"), part(written, "grpcStatus")) {
        (None, None) => Ok(None),
        (Some(status), None) => {
            let status = status.as_u64().and_then(|code| u16::try_from(code).ok());
            let status = status.filter(|code| (200..600).contains(code));
            let status = status.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.ok_or_else(|| {
                rule.malformed("fault.abort.httpStatus", "expected a status from 200 to 599")
            })?;
            Ok(Some(Abort::Http(status)))
        }
        (None, Some(status)) => {
            let code = status.as_str().and_then(grpc_code);
            let code = code.ok_or_else(|| {
                rule.malformed(
                    "fault.abort.grpcStatus",
                    "expected a gRPC status such as UNAVAILABLE",
                )
            })?;
            Ok(Some(Abort::Grpc(code)))
        }
        (Some(_), Some(_)) => Err(rule.malformed("fault.abort", "give one status")),
    }
}

/// A status by its name or its number.
fn grpc_code(written: &str) -> Option<u32> {
    let by_name = GRPC_CODES.iter().position(|name| *name == written);
    by_name
        .and_then(|code| u32::try_from(code).ok())
        .or_else(|| written.parse().ok().filter(|code| *code <= 16))
}

/// The names of gRPC's statuses, from 0 on.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
