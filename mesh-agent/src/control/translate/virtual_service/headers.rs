//! `headers` of a rule or of a destination of a VirtualService.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: anything but this field.

use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::super::object::unknown_fields;
use super::super::route_filter::header_name;
use super::super::route_rule::Rule;
use super::http_match::mapping;
use super::text::part;
use super::texts;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{Filters, HeaderEdits};

/// Changes of requests and responses; a request's `host` is its authority.
pub(super) fn filters(rule: &mut Rule<'_>, at: &str, written: Option<&Value>) -> Result<Filters, Rejection> {
    let mut filters = Filters::default();
    let Some(written) = written else {
        return Ok(filters);
    };
    for field in unknown_fields(written, &["request", "response"]) {
        rule.refuse(&format!("{at}.{field}"));
    }
    if let Some(request) = part(written, "request") {
        let at = format!("{at}.request");
        let set = mapping(rule, &at, request, "set")?;
        for (_, value) in set.filter(|(name, _)| is_authority(name)) {
            let authority = value.as_str().and_then(|value| value.parse().ok());
            let authority = authority
                .ok_or_else(|| rule.malformed(&format!("{at}.set[host]"), "expected a host name"))?;
            filters.rewrite.authority = Some(authority);
        }
        filters.request = edits(rule, &at, request)?;
    }
    if let Some(response) = part(written, "response") {
        filters.response = edits(rule, &format!("{at}.response"), response)?;
    }
    Ok(filters)
}

fn is_authority(name: &str) -> bool {
    name == ":authority" || name.eq_ignore_ascii_case("host")
}

fn edits(rule: &mut Rule<'_>, at: &str, written: &Value) -> Result<HeaderEdits, Rejection> {
    for field in unknown_fields(written, &["set", "add", "remove"]) {
        rule.refuse(&format!("{at}.{field}"));
    }
    let field = format!("{}.{at}", rule.at);
    let remove = texts(rule.object, written, &field, "remove")?.unwrap_or_default();
    let remove = remove
        .into_iter()
        .map(|name| header_name(rule, &format!("{at}.remove"), name));
    Ok(HeaderEdits {
        set: lines(rule, at, written, "set")?,
        add: lines(rule, at, written, "add")?,
        remove: remove.collect::<Result<_, _>>()?,
    })
}

fn lines(
    rule: &Rule<'_>,
    at: &str,
    written: &Value,
    field: &str,
) -> Result<Vec<(HeaderName, HeaderValue)>, Rejection> {
    let lines = mapping(rule, at, written, field)?;
    let is_line = |name: &str| field != "set" || !at.ends_with("request") || !is_authority(name);
    let lines = lines.filter(|(name, _)| is_line(name)).map(|(name, value)| {
        let at = format!("{at}.{field}[{name}]");
        let value = value.as_str().and_then(|value| HeaderValue::try_from(value).ok());
        let value = value.ok_or_else(|| rule.malformed(&at, "expected a text that a header can carry"))?;
        Ok((header_name(rule, &at, name)?, value))
    });
    lines.collect()
}
