//! `match` of a rule of a VirtualService.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: destinations.

use std::sync::Arc;

use http::HeaderName;
use serde_json::Value;

use super::super::object::unknown_fields;
use super::super::route_rule::Rule;
use super::super::service::port_number;
use super::text::{Text, part, pattern, text, value_match};
use super::{acts_in_mesh, texts};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{FieldMatch, FurtherMatch, HttpMatch, PathMatch, ValueMatch};

/// All matches that can hold; without `match` everything does.
pub(super) fn matches(rule: &mut Rule<'_>, list: Option<&Value>) -> Result<Vec<HttpMatch>, Rejection> {
    let list = rule.list("match", list)?;
    if list.is_empty() {
        return Ok(vec![HttpMatch::default()]);
    }
    let mut matches = Vec::new();
    for (index, part) in list.iter().enumerate() {
        matches.extend(one(rule, &format!("match[{index}]"), part)?);
    }
    Ok(matches)
}

/// `None` for one that no request between pods can fulfil.
fn one(rule: &mut Rule<'_>, at: &str, written: &Value) -> Result<Option<HttpMatch>, Rejection> {
    if !written.is_object() {
        return Err(rule.malformed(at, "expected a mapping"));
    }
    for field in unknown_fields(written, &KNOWN) {
        if field == "statPrefix" {
            rule.ignore(&format!("{at}.{field}"));
        } else {
            rule.refuse(&format!("{at}.{field}"));
        }
    }
    let field = format!("{}.{at}", rule.at);
    let gateways = texts(rule.object, written, &field, "gateways")?;
    if !acts_in_mesh(gateways.as_deref()) || !is_of_plain_http(rule, at, written)? {
        return Ok(None);
    }
    let mut matched = HttpMatch {
        path: path(rule, at, written)?,
        headers: headers(rule, at, written, "headers")?,
        query: query(rule, at, written)?,
        ..HttpMatch::default()
    };
    let mut further = FurtherMatch {
        authority: optional(rule, at, written, "authority")?,
        without_headers: headers(rule, at, written, "withoutHeaders")?,
        port: port(rule, at, written)?,
        source_namespace: source_namespace(rule, at, written)?,
        source_labels: labels(rule, at, written)?,
        ..FurtherMatch::default()
    };
    match optional(rule, at, written, "method")? {
        Some(ValueMatch::Exact(method)) => matched.method = Some(method),
        other => further.method = other,
    }
    if further != FurtherMatch::default() {
        matched.further = Some(Arc::new(further));
    }
    Ok(Some(matched))
}

/// Whether `scheme`, if it is asked for, is that of what pods say to the agent.
fn is_of_plain_http(rule: &Rule<'_>, at: &str, written: &Value) -> Result<bool, Rejection> {
    let scheme = optional(rule, at, written, "scheme")?;
    Ok(scheme.is_none_or(|scheme| scheme.holds(b"http")))
}

fn path(rule: &Rule<'_>, at: &str, written: &Value) -> Result<PathMatch, Rejection> {
    let ignores_case = written.get("ignoreUriCase").and_then(Value::as_bool) == Some(true);
    let Some(uri) = part(written, "uri") else {
        return Ok(PathMatch::Prefix("/".into()));
    };
    let at = format!("{at}.uri");
    Ok(match text(rule, &at, uri)? {
        Text::Exact(path) if ignores_case => PathMatch::AnyCase(path.into()),
        Text::Exact(path) => PathMatch::Exact(path.into()),
        Text::Prefix(text) => PathMatch::Beginning {
            text: text.into(),
            ignores_case,
        },
        Text::Regex(written) => PathMatch::Regex(pattern(rule, &at, &written)?),
    })
}

/// `headers` or `withoutHeaders`.
fn headers(
    rule: &mut Rule<'_>,
    at: &str,
    written: &Value,
    field: &str,
) -> Result<Vec<FieldMatch>, Rejection> {
    let mut headers = Vec::new();
    for (name, value) in mapping(rule, at, written, field)? {
        let at = format!("{at}.{field}[{name}]");
        if ["uri", "scheme", "method", "authority"].contains(&name.as_str()) {
            // As in Istio, which has fields for them.
            rule.ignore(&at);
            continue;
        }
        let Ok(header) = HeaderName::try_from(name.as_str()) else {
            return Err(rule.malformed(&at, "not a header name"));
        };
        headers.push(FieldMatch {
            name: header.as_str().into(),
            value: value_match(rule, &at, value)?,
        });
    }
    Ok(headers)
}

fn query(rule: &Rule<'_>, at: &str, written: &Value) -> Result<Vec<FieldMatch>, Rejection> {
    let parameters = mapping(rule, at, written, "queryParams")?;
    let parameters = parameters.map(|(name, value)| {
        Ok(FieldMatch {
            name: name.as_str().into(),
            value: value_match(rule, &format!("{at}.queryParams[{name}]"), value)?,
        })
    });
    parameters.collect()
}

pub(super) fn port(rule: &Rule<'_>, at: &str, written: &Value) -> Result<Option<u16>, Rejection> {
    let Some(port) = part(written, "port") else {
        return Ok(None);
    };
    let number = port
        .as_i64()
        .and_then(|port| i32::try_from(port).ok())
        .unwrap_or(0);
    port_number(rule.object, &format!("{}.{at}.port", rule.at), number).map(Some)
}

pub(super) fn source_namespace(
    rule: &Rule<'_>,
    at: &str,
    written: &Value,
) -> Result<Option<Arc<str>>, Rejection> {
    match part(written, "sourceNamespace") {
        None => Ok(None),
        Some(Value::String(name)) if name.is_empty() => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.as_str().into())),
        Some(_) => Err(rule.malformed(&format!("{at}.sourceNamespace"), "expected a text")),
    }
}

pub(super) fn labels(rule: &Rule<'_>, at: &str, written: &Value) -> Result<Vec<(String, String)>, Rejection> {
    let labels = mapping(rule, at, written, "sourceLabels")?.map(|(name, value)| match value.as_str() {
        Some(value) => Ok((name.clone(), value.to_owned())),
        None => Err(rule.malformed(&format!("{at}.sourceLabels[{name}]"), "expected a text")),
    });
    labels.collect()
}

fn optional(
    rule: &Rule<'_>,
    at: &str,
    written: &Value,
    field: &str,
) -> Result<Option<ValueMatch>, Rejection> {
    part(written, field)
        .map(|value| value_match(rule, &format!("{at}.{field}"), value))
        .transpose()
}

/// A mapping that may be absent.
pub(super) fn mapping<'v>(
    rule: &Rule<'_>,
    at: &str,
    written: &'v Value,
    field: &str,
) -> Result<impl Iterator<Item = (&'v String, &'v Value)> + use<'v>, Rejection> {
    let part = part(written, field);
    if part.is_some_and(|part| !part.is_object()) {
        return Err(rule.malformed(&format!("{at}.{field}"), "expected a mapping"));
    }
    Ok(part.and_then(Value::as_object).into_iter().flatten())
}

const KNOWN: [&str; 13] = [
    "name",
    "uri",
    "ignoreUriCase",
    "scheme",
    "method",
    "authority",
    "headers",
    "withoutHeaders",
    "queryParams",
    "port",
    "sourceLabels",
    "sourceNamespace",
    "gateways",
];
