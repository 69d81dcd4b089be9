//! Where a rule of a VirtualService sends requests and copies of them.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: endpoints.

use serde_json::Value;

use super::super::object::unknown_fields;
use super::super::route_rule::Rule;
use super::super::service::port_number;
use super::http_route::Context;
use super::text::{part, share};
use super::{NO_SERVICE, headers};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{BackendTarget, Mirror, RouteBackend, Share};

/// `route`.
pub(super) fn routes(
    rule: &mut Rule<'_>,
    list: Option<&Value>,
    context: &Context<'_>,
) -> Result<Vec<RouteBackend>, Rejection> {
    let list = rule.list("route", list)?;
    let mut backends = Vec::new();
    for (index, part) in list.iter().enumerate() {
        backends.push(one(rule, &format!("route[{index}]"), part, context)?);
    }
    if let [only] = backends.as_mut_slice() {
        // As in Istio: a lone destination gets all, whatever its weight.
        only.weight = 100;
    } else if backends.iter().all(|backend| backend.weight == 0) {
        rule.refuse_because("route", "no destination has a weight");
    }
    Ok(backends)
}

fn one(
    rule: &mut Rule<'_>,
    at: &str,
    written: &Value,
    context: &Context<'_>,
) -> Result<RouteBackend, Rejection> {
    for field in unknown_fields(written, &["destination", "weight", "headers"]) {
        rule.refuse(&format!("{at}.{field}"));
    }
    let weight = part(written, "weight").map_or(Some(0), Value::as_u64);
    let weight = weight.and_then(|weight| u32::try_from(weight).ok());
    let weight =
        weight.ok_or_else(|| rule.malformed(&format!("{at}.weight"), "expected a number from 0 on"))?;
    let field = format!("{at}.destination");
    let target = target(rule, &field, written.get("destination"), context)?;
    Ok(RouteBackend {
        field: format!("{}.{field}", rule.at).into(),
        target,
        weight,
        filters: headers::filters(rule, &format!("{at}.headers"), part(written, "headers"))?,
    })
}

/// `mirror` with `mirrorPercentage`, or `mirrors`.
pub(super) fn mirrors(
    rule: &mut Rule<'_>,
    written: &Value,
    context: &Context<'_>,
) -> Result<Vec<Mirror>, Rejection> {
    let mut mirrors = Vec::new();
    if let Some(only) = part(written, "mirror") {
        let share = share(rule, "mirrorPercentage", part(written, "mirrorPercentage"))?;
        mirrors.push(mirror(rule, "mirror", only, share, context)?);
    }
    for (index, one) in rule.list("mirrors", written.get("mirrors"))?.iter().enumerate() {
        let at = format!("mirrors[{index}]");
        for field in unknown_fields(one, &["destination", "percentage"]) {
            rule.ignore(&format!("{at}.{field}"));
        }
        let share = share(rule, &format!("{at}.percentage"), part(one, "percentage"))?;
        let destination = one.get("destination").unwrap_or(&Value::Null);
        mirrors.push(mirror(
            rule,
            &format!("{at}.destination"),
            destination,
            share,
            context,
        )?);
    }
    Ok(mirrors)
}

fn mirror(
    rule: &mut Rule<'_>,
    at: &str,
    destination: &Value,
    share: Option<Share>,
    context: &Context<'_>,
) -> Result<Mirror, Rejection> {
    Ok(Mirror {
        field: format!("{}.{at}", rule.at).into(),
        target: target(rule, at, Some(destination), context)?,
        share: share.unwrap_or(Share::ALL),
    })
}

/// A destination at `at`; one that cannot be is reported and keeps its share.
fn target(
    rule: &mut Rule<'_>,
    at: &str,
    written: Option<&Value>,
    context: &Context<'_>,
) -> Result<BackendTarget, Rejection> {
    let target = port_of_service(rule, at, written, context)?;
    let Some(subset) = written.and_then(|written| part(written, "subset")) else {
        return Ok(target);
    };
    let Some(subset) = subset.as_str() else {
        return Err(rule.malformed(&format!("{at}.subset"), "expected a text"));
    };
    Ok(match target {
        BackendTarget::Service(service, port) if !subset.is_empty() => {
            BackendTarget::Subset(service, port, subset.into())
        }
        other @ (BackendTarget::Service(..) | BackendTarget::Subset(..) | BackendTarget::Invalid) => other,
    })
}

fn port_of_service(
    rule: &mut Rule<'_>,
    at: &str,
    written: Option<&Value>,
    context: &Context<'_>,
) -> Result<BackendTarget, Rejection> {
    let Some(written) = written.filter(|written| written.is_object()) else {
        return Err(rule.malformed(at, "expected a mapping"));
    };
    let mut unknown = unknown_fields(written, &["host", "port", "subset"]);
    if let Some(field) = unknown.next() {
        return Ok(refused(rule, at, field, "not supported yet"));
    }
    let host = written.get("host").and_then(Value::as_str).unwrap_or_default();
    let Some(service) = context.service_of(host, &rule.object.namespace) else {
        return Ok(refused(rule, at, "host", NO_SERVICE));
    };
    if let Some(port) = part(written, "port") {
        let number = port.get("number").and_then(Value::as_i64);
        let number = number.and_then(|number| i32::try_from(number).ok()).unwrap_or(0);
        let field = format!("{}.{at}.port.number", rule.at);
        return port_number(rule.object, &field, number).map(|port| BackendTarget::Service(service, port));
    }
    let Some(known) = context.services.get(&service) else {
        let reason = format!("Service {service} is not known");
        return Ok(refused(rule, at, "host", &reason));
    };
    if let [only] = known.ports.as_slice() {
        return Ok(BackendTarget::Service(service, only.port));
    }
    let reason = format!("Service {service} has several ports, of which one must be named");
    Ok(refused(rule, at, "port", &reason))
}

fn refused(rule: &mut Rule<'_>, at: &str, field: &str, reason: &str) -> BackendTarget {
    let reason = format!("{reason}; {}", rule.carried.lost_share());
    let rejection = rule.malformed(&format!("{at}.{field}"), reason);
    rule.rejections.push(rejection);
    BackendTarget::Invalid
}
