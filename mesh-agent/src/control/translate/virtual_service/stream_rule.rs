//! `tls` and `tcp` of a VirtualService: where connections go that are no HTTP.
//!
//! Place in the walk: part of [`super`]. Must not know: endpoints.

use serde_json::Value;

use super::super::authorization_rule::block;
use super::super::object::{Object, unknown_fields};
use super::super::route_rule::{Carried, Rule};
use super::http_match::{labels, port, source_namespace};
use super::http_route::Context;
use super::{acts_in_mesh, destination, is_absent, texts};
use crate::mesh::exclusions::Cidr;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{NamePattern, OpeningMatch, StreamMatch, StreamRule};

/// All rules, those of `tls` before those of `tcp`, each as it is written.
pub(super) fn rules(
    object: &Object,
    context: &Context<'_>,
    rejections: &mut Vec<Rejection>,
) -> Result<Vec<StreamRule>, Rejection> {
    let mut rules = Vec::new();
    for (part, is_tls) in [("tls", true), ("tcp", false)] {
        let written = object.spec().get(part);
        if is_absent(written) {
            continue;
        }
        let at = format!("spec.{part}");
        let list = written.and_then(Value::as_array);
        let list = list.ok_or_else(|| object.reject(&at, "expected a list"))?;
        for (index, rule) in list.iter().enumerate() {
            let mut reading = Rule {
                object,
                at: format!("{at}[{index}]"),
                rejections,
                is_refused: false,
                carried: Carried::Connections,
            };
            rules.push(one(&mut reading, rule, is_tls, context)?);
        }
    }
    Ok(rules)
}

fn one(
    reading: &mut Rule<'_>,
    rule: &Value,
    is_tls: bool,
    context: &Context<'_>,
) -> Result<StreamRule, Rejection> {
    if !rule.is_object() {
        return Err(reading.object.reject(&reading.at, "expected a mapping"));
    }
    for field in unknown_fields(rule, &["match", "route"]) {
        reading.refuse(field);
    }
    let matches = matches(reading, rule.get("match"), is_tls)?;
    let routes = reading.list("route", rule.get("route"))?;
    for (index, part) in routes.iter().enumerate() {
        if part.get("headers").is_some_and(|headers| !headers.is_null()) {
            reading.refuse(&format!("route[{index}].headers"));
        }
    }
    let mut backends = destination::routes(reading, rule.get("route"), context)?;
    if reading.is_refused {
        backends.clear();
    }
    Ok(StreamRule { matches, backends })
}

/// All matches that can hold; without `match` every connection does, and of `tls` none.
fn matches(rule: &mut Rule<'_>, list: Option<&Value>, is_tls: bool) -> Result<Vec<StreamMatch>, Rejection> {
    let list = rule.list("match", list)?;
    if list.is_empty() && is_tls {
        rule.refuse_because("match", "a tls rule names the servers that it is about");
    }
    if list.is_empty() && !is_tls {
        return Ok(vec![StreamMatch::default()]);
    }
    let mut matches = Vec::new();
    for (index, part) in list.iter().enumerate() {
        matches.extend(of_entry(rule, &format!("match[{index}]"), part, is_tls)?);
    }
    Ok(matches)
}

/// One for each name, or none for an entry that is about Gateways.
fn of_entry(
    rule: &mut Rule<'_>,
    at: &str,
    written: &Value,
    is_tls: bool,
) -> Result<Vec<StreamMatch>, Rejection> {
    if !written.is_object() {
        return Err(rule.malformed(at, "expected a mapping"));
    }
    let known = if is_tls { &KNOWN[..] } else { &KNOWN[1..] };
    for field in unknown_fields(written, known) {
        rule.refuse(&format!("{at}.{field}"));
    }
    let field = format!("{}.{at}", rule.at);
    let gateways = texts(rule.object, written, &field, "gateways")?;
    if !acts_in_mesh(gateways.as_deref()) {
        return Ok(Vec::new());
    }
    let matched = StreamMatch {
        opening: OpeningMatch::Anything,
        subnets: subnets(rule, at, written)?,
        port: port(rule, at, written)?,
        source_namespace: source_namespace(rule, at, written)?,
        source_labels: labels(rule, at, written)?,
    };
    if !is_tls {
        return Ok(vec![matched]);
    }
    let names = texts(rule.object, written, &field, "sniHosts")?.unwrap_or_default();
    if names.is_empty() {
        rule.refuse_because(
            &format!("{at}.sniHosts"),
            "a tls rule names the servers that it is about",
        );
    }
    let mut matches = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let pattern = NamePattern::read(name).ok_or_else(|| {
            let reason = format!("{name:?} is no name of a server; use NAME, *.NAME or *");
            rule.malformed(&format!("{at}.sniHosts[{index}]"), reason)
        })?;
        matches.push(StreamMatch {
            opening: OpeningMatch::Named(pattern),
            ..matched.clone()
        });
    }
    Ok(matches)
}

/// `destinationSubnets`: addresses or blocks of them.
fn subnets(rule: &Rule<'_>, at: &str, written: &Value) -> Result<Vec<Cidr>, Rejection> {
    let field = format!("{}.{at}", rule.at);
    let texts = texts(rule.object, written, &field, "destinationSubnets")?.unwrap_or_default();
    let read = texts.iter().enumerate().map(|(index, text)| {
        block(text).map_err(|reason| rule.malformed(&format!("{at}.destinationSubnets[{index}]"), reason))
    });
    read.collect()
}

/// Of an entry of `tls`; those of `tcp` have all but the first.
const KNOWN: [&str; 6] = [
    "sniHosts",
    "destinationSubnets",
    "port",
    "sourceLabels",
    "sourceNamespace",
    "gateways",
];
