//! The filters of routes, which HTTPRoute and GRPCRoute share.
//!
//! Place in the walk: part of [`super::route_rule`]. Must not know: matches, which Services exist.
//!
//! A filter that is not supported makes its rule answer 500, as Gateway API asks: a request must not go on as if the
//! filter were not there.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use super::external_auth;
use super::object::unknown_fields;
use super::route_rule::Rule;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{
    Cors, Filters, HeaderEdits, Mirror, OriginMatch, PathRewrite, Redirect, Rewrite, Share,
};

/// All filters of a rule.
#[derive(Debug, Default)]
pub(super) struct RuleFilters {
    pub(super) filters: Filters,
    pub(super) redirect: Option<Redirect>,
    pub(super) cors: Option<Cors>,
}

/// `filters` of a rule.
pub(super) fn of_rule(rule: &mut Rule<'_>, list: Option<&Value>) -> Result<RuleFilters, Rejection> {
    let mut read = RuleFilters::default();
    for (index, part) in rule.list("filters", list)?.iter().enumerate() {
        add(rule, &mut read, &format!("filters[{index}]"), part)?;
    }
    if read.redirect.is_some() && read.filters.rewrite != Rewrite::default() {
        rule.refuse_because("filters", "URLRewrite and RequestRedirect exclude each other");
    }
    Ok(read)
}

/// `filters` of a backend at `at`.
pub(super) fn of_backend(rule: &mut Rule<'_>, at: &str, list: Option<&Value>) -> Result<Filters, Rejection> {
    let mut read = RuleFilters::default();
    let field = format!("{at}.filters");
    for (index, part) in rule.list(&field, list)?.iter().enumerate() {
        let at = format!("{field}[{index}]");
        match part.get("type").and_then(Value::as_str) {
            Some("RequestRedirect" | "CORS") => {
                rule.refuse_because(&at, "such a filter belongs to a rule, not to a backend");
            }
            _ => add(rule, &mut read, &at, part)?,
        }
    }
    Ok(read.filters)
}

/// `type` and the part that it names.
fn add(rule: &mut Rule<'_>, read: &mut RuleFilters, at: &str, part: &Value) -> Result<(), Rejection> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    let field = match kind {
        "RequestHeaderModifier" => "requestHeaderModifier",
        "ResponseHeaderModifier" => "responseHeaderModifier",
        "RequestRedirect" => "requestRedirect",
        "URLRewrite" => "urlRewrite",
        "RequestMirror" => "requestMirror",
        "CORS" => "cors",
        // Gateway API knows it for HTTPRoutes alone.
        "ExternalAuth" if rule.object.kind == "HTTPRoute" => "externalAuth",
        _ => {
            rule.refuse(&format!("{at}.type"));
            return Ok(());
        }
    };
    for unknown in unknown_fields(part, &["type", field]) {
        rule.refuse_because(&format!("{at}.{unknown}"), "not a part of this type of filter");
    }
    let at = format!("{at}.{field}");
    let part = part.get(field).filter(|part| part.is_object());
    if kind == "ExternalAuth" {
        external_auth::add(rule, &mut read.filters.gate, &at, part);
        return Ok(());
    }
    let Some(part) = part else {
        return Err(rule.malformed(&at, "expected a mapping"));
    };
    let twice = match kind {
        "RequestHeaderModifier" => put(&mut read.filters.request, edits(rule, &at, part)?),
        "ResponseHeaderModifier" => put(&mut read.filters.response, edits(rule, &at, part)?),
        "RequestRedirect" => read.redirect.replace(redirect(rule, &at, part)?).is_some(),
        "URLRewrite" => put(&mut read.filters.rewrite, rewrite(rule, &at, part)?),
        "CORS" => read.cors.replace(cors(rule, &at, part)?).is_some(),
        _ => {
            read.filters.mirrors.extend(mirror(rule, &at, part)?);
            false
        }
    };
    if twice {
        rule.refuse_because(&at, "the filter may stand in a list once");
    }
    Ok(())
}

/// Whether there was something already.
fn put<T: Default + PartialEq>(place: &mut T, value: T) -> bool {
    std::mem::replace(place, value) != T::default()
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct HeaderFilter {
    set: Vec<HeaderLine>,
    add: Vec<HeaderLine>,
    remove: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    name: String,
    value: String,
}

fn edits(rule: &Rule<'_>, at: &str, part: &Value) -> Result<HeaderEdits, Rejection> {
    let declared: HeaderFilter = rule.object.parse_part(part, &format!("{}.{at}", rule.at))?;
    let lines = |list: Vec<HeaderLine>, field: &str| -> Result<Vec<_>, Rejection> {
        let mut lines: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (index, line) in list.into_iter().enumerate() {
            let at = format!("{at}.{field}[{index}]");
            let name = header_name(rule, &format!("{at}.name"), &line.name)?;
            let value = HeaderValue::try_from(line.value).map_err(|_| {
                rule.malformed(
                    &format!("{at}.value"),
                    "holds characters that no header can carry",
                )
            })?;
            // As for matches: of several entries for one name the first counts.
            if !lines.iter().any(|(seen, _)| *seen == name) {
                lines.push((name, value));
            }
        }
        Ok(lines)
    };
    Ok(HeaderEdits {
        set: lines(declared.set, "set")?,
        add: lines(declared.add, "add")?,
        remove: declared
            .remove
            .iter()
            .enumerate()
            .map(|(index, name)| header_name(rule, &format!("{at}.remove[{index}]"), name))
            .collect::<Result<_, _>>()?,
    })
}

/// A field that a route may change: not those that frame a message or belong to one connection.
pub(super) fn header_name(rule: &Rule<'_>, at: &str, name: &str) -> Result<HeaderName, Rejection> {
    let name = HeaderName::try_from(name).map_err(|_| rule.malformed(at, "not a header name"))?;
    let is_framing = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
    ]
    .contains(&name);
    if is_framing || name.as_str().starts_with("x-mesh-agent-") {
        return Err(rule.malformed(
            at,
            "belongs to the connection or to the mesh; a route cannot change it",
        ));
    }
    if name == header::HOST {
        return Err(rule.malformed(at, "use URLRewrite's hostname"));
    }
    Ok(name)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PathModifier {
    r#type: String,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

fn path_rewrite(rule: &Rule<'_>, at: &str, declared: PathModifier) -> Result<PathRewrite, Rejection> {
    let at = format!("{at}.path");
    let PathModifier {
        r#type,
        replace_full_path,
        replace_prefix_match,
    } = declared;
    let wrong =
        |field: &str| rule.malformed(&format!("{at}.{field}"), "belongs to the other type of modifier");
    let (path, rewrite): (_, fn(Arc<str>) -> PathRewrite) =
        match (r#type.as_str(), replace_full_path, replace_prefix_match) {
            ("ReplaceFullPath", Some(path), None) => (path, PathRewrite::Full),
            ("ReplacePrefixMatch", None, Some(path)) => (path, PathRewrite::Prefix),
            ("ReplaceFullPath", _, Some(_)) => return Err(wrong("replacePrefixMatch")),
            ("ReplacePrefixMatch", Some(_), _) => return Err(wrong("replaceFullPath")),
            ("ReplaceFullPath" | "ReplacePrefixMatch", None, None) => {
                return Err(rule.malformed(&at, "the path itself is missing"));
            }
            _ => {
                return Err(rule.malformed(
                    &format!("{at}.type"),
                    "expected ReplaceFullPath or ReplacePrefixMatch",
                ));
            }
        };
    if path.contains(['?', '#']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(rule.malformed(&at, "a path holds printable ASCII without '?' and '#'"));
    }
    Ok(rewrite(path.into()))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UrlRewrite {
    hostname: Option<String>,
    path: Option<PathModifier>,
}

fn rewrite(rule: &Rule<'_>, at: &str, part: &Value) -> Result<Rewrite, Rejection> {
    let declared: UrlRewrite = rule.object.parse_part(part, &format!("{}.{at}", rule.at))?;
    let authority = declared
        .hostname
        .map(|name| hostname(rule, at, &name))
        .transpose()?;
    let path = declared
        .path
        .map(|path| path_rewrite(rule, at, path))
        .transpose()?;
    Ok(Rewrite { authority, path })
}

/// A precise host name: no wildcard, no port.
fn hostname(rule: &Rule<'_>, at: &str, name: &str) -> Result<Authority, Rejection> {
    let is_precise = !name.contains([':', '@', '*']);
    name.parse()
        .ok()
        .filter(|_| is_precise)
        .ok_or_else(|| rule.malformed(&format!("{at}.hostname"), "expected a host name without a port"))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequestRedirect {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<PathModifier>,
    port: Option<i32>,
    status_code: Option<u16>,
}

fn redirect(rule: &Rule<'_>, at: &str, part: &Value) -> Result<Redirect, Rejection> {
    let declared: RequestRedirect = rule.object.parse_part(part, &format!("{}.{at}", rule.at))?;
    let scheme = match declared.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::HTTP),
        Some("https") => Some(Scheme::HTTPS),
        Some(_) => return Err(rule.malformed(&format!("{at}.scheme"), "expected http or https")),
    };
    let host = declared
        .hostname
        .map(|name| hostname(rule, at, &name))
        .transpose()?;
    let port = declared
        .port
        .map(|port| super::service::port_number(rule.object, &format!("{}.{at}.port", rule.at), port))
        .transpose()?;
    let code = declared.status_code.unwrap_or(302);
    let status = StatusCode::from_u16(code)
        .ok()
        .filter(|_| matches!(code, 301 | 302 | 303 | 307 | 308))
        .ok_or_else(|| {
            let field = format!("{at}.statusCode");
            rule.malformed(&field, "expected 301, 302, 303, 307 or 308")
        })?;
    Ok(Redirect {
        scheme,
        host: host.map(|host| host.as_str().into()),
        port,
        path: declared
            .path
            .map(|path| path_rewrite(rule, at, path))
            .transpose()?,
        status,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequestMirror {
    backend_ref: Value,
    percent: Option<u32>,
    fraction: Option<Fraction>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fraction {
    numerator: u32,
    denominator: Option<u32>,
}

fn mirror(rule: &mut Rule<'_>, at: &str, part: &Value) -> Result<Option<Mirror>, Rejection> {
    let declared: RequestMirror = rule.object.parse_part(part, &format!("{}.{at}", rule.at))?;
    let share = match (declared.percent, declared.fraction) {
        (Some(_), Some(_)) => {
            return Err(rule.malformed(
                &format!("{at}.fraction"),
                "give a percent or a fraction, not both",
            ));
        }
        (Some(percent), None) => Share {
            numerator: percent,
            denominator: 100,
        },
        (None, Some(fraction)) => Share {
            numerator: fraction.numerator,
            denominator: fraction.denominator.unwrap_or(100),
        },
        (None, None) => Share::ALL,
    };
    if share.denominator == 0 || share.numerator > share.denominator {
        return Err(rule.malformed(at, "a share of requests is at least none and at most all"));
    }
    let target = rule.reference(
        &format!("{at}.backendRef"),
        &declared.backend_ref,
        "it gets no copies",
    )?;
    Ok(Some(Mirror {
        field: format!("{}.{at}.backendRef", rule.at).into(),
        target,
        share,
    }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct CorsFilter {
    allow_origins: Vec<String>,
    allow_credentials: Option<bool>,
    allow_methods: Vec<String>,
    allow_headers: Vec<String>,
    expose_headers: Vec<String>,
    max_age: Option<u32>,
}

fn cors(rule: &Rule<'_>, at: &str, part: &Value) -> Result<Cors, Rejection> {
    let declared: CorsFilter = rule.object.parse_part(part, &format!("{}.{at}", rule.at))?;
    let tokens = |list: Vec<String>, field: &str| -> Result<Vec<Arc<str>>, Rejection> {
        list.into_iter()
            .enumerate()
            .map(|(index, word)| match HeaderName::try_from(word.as_str()) {
                Ok(_) => Ok(word.into()),
                Err(_) => Err(rule.malformed(&format!("{at}.{field}[{index}]"), "not a token")),
            })
            .collect()
    };
    Ok(Cors {
        origins: declared
            .allow_origins
            .iter()
            .map(|origin| origin_match(origin))
            .collect(),
        credentials: declared.allow_credentials.unwrap_or(false),
        methods: tokens(declared.allow_methods, "allowMethods")?,
        request_headers: tokens(declared.allow_headers, "allowHeaders")?,
        exposed_headers: tokens(declared.expose_headers, "exposeHeaders")?,
        max_age: Some(Duration::from_secs(
            declared.max_age.unwrap_or(DEFAULT_MAX_AGE).into(),
        )),
        keeps_others_away: false,
    })
}

fn origin_match(written: &str) -> OriginMatch {
    match written.split_once('*') {
        None => OriginMatch::Exact(written.into()),
        Some(("", "")) => OriginMatch::Any,
        Some((before, after)) => OriginMatch::Wildcard(before.into(), after.into()),
    }
}

/// Seconds (Gateway API's default).
const DEFAULT_MAX_AGE: u32 = 5;
