//! `corsPolicy` of a rule of a VirtualService.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: anything but this field.

use std::sync::Arc;

use serde_json::Value;

use super::super::object::unknown_fields;
use super::super::route_rule::Rule;
use super::text::{Text, duration_at, part, pattern, text};
use super::texts;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{Cors, OriginMatch};

/// Who may ask from elsewhere, and what a preflight is told.
pub(super) fn cors(rule: &mut Rule<'_>, written: Option<&Value>) -> Result<Option<Cors>, Rejection> {
    let Some(written) = written else {
        return Ok(None);
    };
    for field in unknown_fields(written, &KNOWN) {
        rule.ignore(&format!("corsPolicy.{field}"));
    }
    let mut origins = Vec::new();
    let list = rule.list("corsPolicy.allowOrigins", written.get("allowOrigins"))?;
    for (index, origin) in list.iter().enumerate() {
        let at = format!("corsPolicy.allowOrigins[{index}]");
        origins.push(match text(rule, &at, origin)? {
            Text::Exact(any) if any == "*" => OriginMatch::Any,
            Text::Exact(origin) => OriginMatch::Exact(origin.into()),
            Text::Prefix(origin) => OriginMatch::Prefix(origin.into()),
            Text::Regex(written) => OriginMatch::Regex(pattern(rule, &at, &written)?),
        });
    }
    // The older name of exact ones, which counts where the newer is absent.
    if origins.is_empty() {
        let at = format!("{}.corsPolicy", rule.at);
        let list = texts(rule.object, written, &at, "allowOrigin")?.unwrap_or_default();
        origins.extend(list.into_iter().map(|origin| match origin {
            "*" => OriginMatch::Any,
            exact => OriginMatch::Exact(exact.into()),
        }));
    }
    let keeps_others_away = match part(written, "unmatchedPreflights").map(Value::as_str) {
        None | Some(Some("UNSPECIFIED" | "FORWARD")) => false,
        Some(Some("IGNORE")) => true,
        Some(_) => return Err(rule.malformed("corsPolicy.unmatchedPreflights", "expected FORWARD or IGNORE")),
    };
    Ok(Some(Cors {
        keeps_others_away,
        origins,
        credentials: part(written, "allowCredentials").and_then(Value::as_bool) == Some(true),
        methods: words(rule, written, "allowMethods")?,
        request_headers: words(rule, written, "allowHeaders")?,
        exposed_headers: words(rule, written, "exposeHeaders")?,
        max_age: duration_at(rule, "corsPolicy.maxAge", part(written, "maxAge"))?,
    }))
}

fn words(rule: &Rule<'_>, written: &Value, field: &str) -> Result<Vec<Arc<str>>, Rejection> {
    let at = format!("{}.corsPolicy", rule.at);
    let words = texts(rule.object, written, &at, field)?.unwrap_or_default();
    words
        .into_iter()
        .map(|word| match http::HeaderName::try_from(word) {
            Ok(_) => Ok(word.into()),
            Err(_) => Err(rule.malformed(&format!("corsPolicy.{field}"), "not a token")),
        })
        .collect()
}

const KNOWN: [&str; 8] = [
    "allowOrigin",
    "allowOrigins",
    "allowMethods",
    "allowHeaders",
    "exposeHeaders",
    "maxAge",
    "allowCredentials",
    "unmatchedPreflights",
];
