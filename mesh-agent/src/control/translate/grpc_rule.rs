//! One rule of a GRPCRoute: a gRPC method is the path `/SERVICE/METHOD` of an HTTP/2 request.
//!
//! Place in the walk: part of [`super::http_route`]. Must not know: which Services exist.

use gateway_api::grpcroutes::{
    GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType, GrpcRouteRulesMatchesMethod,
    GrpcRouteRulesMatchesMethodType,
};
use serde_json::Value;

use super::object::{Object, unknown_fields};
use super::route_filter;
use super::route_rule::{Carried, Rule};
use super::session_persistence;
use crate::mesh::facts::Rejection;
use crate::mesh::route::{HttpMatch, HttpRule, PathMatch, Rewrite, RuleAction};

pub(super) fn translate(
    object: &Object,
    index: usize,
    rule: &Value,
    rejections: &mut Vec<Rejection>,
) -> Result<HttpRule, Rejection> {
    let mut reading = Rule {
        object,
        at: format!("spec.rules[{index}]"),
        rejections,
        is_refused: false,
        carried: Carried::Requests,
    };
    if !rule.is_object() {
        return Err(object.reject(&reading.at, "expected a mapping"));
    }
    for field in unknown_fields(
        rule,
        &["name", "matches", "filters", "backendRefs", "sessionPersistence"],
    ) {
        reading.refuse(field);
    }
    let mut matches = Vec::new();
    for (index, part) in reading.list("matches", rule.get("matches"))?.iter().enumerate() {
        matches.push(one_match(&mut reading, index, part)?);
    }
    if matches.is_empty() {
        matches.push(HttpMatch::default());
    }
    let filters = route_filter::of_rule(&mut reading, rule.get("filters"))?;
    if filters.redirect.is_some() || filters.cors.is_some() || filters.filters.rewrite != Rewrite::default() {
        reading.refuse_because("filters", "a GRPCRoute changes headers and mirrors, nothing else");
    }
    let session = session_persistence::read(&mut reading, rule.get("sessionPersistence"))?;
    let mut backends = reading.backends(rule.get("backendRefs"))?;
    if reading.is_refused {
        backends.clear();
    }
    Ok(HttpRule {
        name: rule.get("name").and_then(Value::as_str).map(Into::into),
        matches,
        filters: filters.filters,
        cors: None,
        fault: None,
        action: RuleAction::Forward(backends),
        request_timeout: None,
        attempt_timeout: None,
        retry: None,
        session,
    })
}

fn one_match(reading: &mut Rule<'_>, index: usize, part: &Value) -> Result<HttpMatch, Rejection> {
    let at = format!("matches[{index}]");
    let field = format!("{}.{at}", reading.at);
    let declared: GrpcRouteRulesMatches = reading.object.parse_part(part, &field)?;
    for field in unknown_fields(part, &["method", "headers"]) {
        reading.refuse(&format!("{at}.{field}"));
    }
    let headers = declared.headers.into_iter().flatten().enumerate();
    let headers = headers.map(|(index, header)| {
        let is_regex = matches!(
            header.r#type,
            Some(GrpcRouteRulesMatchesHeadersType::RegularExpression)
        );
        reading.header(
            &format!("{at}.headers[{index}]"),
            &header.name,
            &header.value,
            is_regex,
        )
    });
    Ok(HttpMatch {
        headers: headers.collect::<Result<_, _>>()?,
        path: path(reading, &at, declared.method.unwrap_or_default())?,
        ..HttpMatch::default()
    })
}

fn path(reading: &Rule<'_>, at: &str, declared: GrpcRouteRulesMatchesMethod) -> Result<PathMatch, Rejection> {
    let at = format!("{at}.method");
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (service, method) = (filled(declared.service), filled(declared.method));
    let is_regex = matches!(
        declared.r#type,
        Some(GrpcRouteRulesMatchesMethodType::RegularExpression)
    );
    if !is_regex
        && [&service, &method]
            .into_iter()
            .flatten()
            .any(|name| !is_name(name))
    {
        return Err(reading.malformed(&at, "a service or method is made of letters, digits, '_' and '.'"));
    }
    Ok(match (service, method) {
        (None, None) => PathMatch::Prefix("/".into()),
        (Some(service), Some(method)) if !is_regex => PathMatch::Exact(format!("/{service}/{method}").into()),
        (Some(service), None) if !is_regex => PathMatch::Prefix(format!("/{service}").into()),
        (service, method) => {
            let part = |text: Option<String>| match text {
                Some(text) if is_regex => format!("(?:{text})"),
                Some(text) => text.replace('.', r"\."),
                None => "[^/]+".to_owned(),
            };
            PathMatch::Regex(reading.pattern(&at, &format!("/{}/{}", part(service), part(method)))?)
        }
    })
}

fn is_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}
