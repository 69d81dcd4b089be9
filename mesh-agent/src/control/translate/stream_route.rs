//! `TCPRoute` and `TLSRoute`: where connections to a Service go, whatever they carry.
//!
//! Place in the walk: becomes a table of rules for each Service port. Must not know: which Services exist.

use std::sync::Arc;

use serde_json::Value;

use super::http_route::parents;
use super::object::{Object, unknown_fields};
use super::route_rule::{Carried, Rule};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{
    Audience, NamePattern, OpeningMatch, RouteKind, StreamMatch, StreamRoute, StreamRule,
};

/// `None` for a route that attaches to no Service, which is a Gateway's business.
pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<StreamRoute>, Rejection> {
    let spec = object.spec();
    let parents = parents(object, spec, rejections)?;
    if parents.is_empty() {
        return Ok(None);
    }
    let (kind, known) = if object.kind == "TLSRoute" {
        (RouteKind::Tls, &["parentRefs", "rules", "hostnames"][..])
    } else {
        (RouteKind::Tcp, &["parentRefs", "rules"][..])
    };
    for field in unknown_fields(spec, known) {
        rejections.push(object.unsupported(&format!("spec.{field}")));
    }
    let matches = if kind == RouteKind::Tls {
        openings(object, spec.get("hostnames"), rejections)?
    } else {
        vec![OpeningMatch::Anything]
    };
    let matches: Vec<_> = matches
        .into_iter()
        .map(|opening| StreamMatch {
            opening,
            ..StreamMatch::default()
        })
        .collect();
    let written = spec.get("rules").and_then(Value::as_array);
    let written = written.filter(|rules| !rules.is_empty());
    let written = written.ok_or_else(|| object.reject("spec.rules", "expected a list with a rule"))?;
    let mut rules = Vec::new();
    for (index, rule) in written.iter().enumerate() {
        if index > 0 {
            let reason = "the first rule takes every connection of the route; this one has no effect";
            rejections.push(object.reject(&format!("spec.rules[{index}]"), reason));
            continue;
        }
        rules.push(StreamRule {
            matches: matches.clone(),
            ..self::rule(object, index, rule, rejections)?
        });
    }
    Ok(Some(StreamRoute {
        kind,
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        audience: Audience::ByNamespace,
        parents,
        rules,
    }))
}

/// `hostnames`: without any, whatever name a handshake asks for. A wrong one is left out.
fn openings(
    object: &Object,
    written: Option<&Value>,
    rejections: &mut Vec<Rejection>,
) -> Result<Vec<OpeningMatch>, Rejection> {
    let names: Vec<String> = match written {
        None | Some(Value::Null) => Vec::new(),
        Some(list) => object.parse_part(list, "spec.hostnames")?,
    };
    if names.is_empty() {
        return Ok(vec![OpeningMatch::Tls]);
    }
    let mut openings = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match NamePattern::read(name) {
            Some(pattern) => openings.push(OpeningMatch::Named(pattern)),
            None => rejections.push(object.reject(
                &format!("spec.hostnames[{index}]"),
                format!("{name:?} is no name of a server; left out"),
            )),
        }
    }
    Ok(openings)
}

/// The backends of a rule; what it matches is the route's.
fn rule(
    object: &Object,
    index: usize,
    rule: &Value,
    rejections: &mut Vec<Rejection>,
) -> Result<StreamRule, Rejection> {
    let mut reading = Rule {
        object,
        at: format!("spec.rules[{index}]"),
        rejections,
        is_refused: false,
        carried: Carried::Connections,
    };
    if !rule.is_object() {
        return Err(object.reject(&reading.at, "expected a mapping"));
    }
    for field in unknown_fields(rule, &["name", "backendRefs"]) {
        reading.refuse(field);
    }
    let list = reading.list("backendRefs", rule.get("backendRefs"))?;
    for (index, part) in list.iter().enumerate() {
        if part.get("filters").is_some_and(|filters| !filters.is_null()) {
            reading.refuse(&format!("backendRefs[{index}].filters"));
        }
    }
    let mut backends = reading.backends(rule.get("backendRefs"))?;
    if reading.is_refused {
        backends.clear();
    }
    Ok(StreamRule {
        matches: Vec::new(),
        backends,
    })
}
