//! Filters of routes, and what is particular to a `GRPCRoute`.

use std::time::Duration;

use super::routes::{TO_WEB, route};
use super::{named, read};
use crate::mesh::route::{
    HeaderEdits, HttpRoute, OriginMatch, PathMatch, PathRewrite, RouteKind, RuleAction, Share,
};

#[test]
fn a_malformed_filter_makes_the_route_be_left_out() {
    for (rule, field) in [
        ("filters: [{type: CORS}]", "spec.rules[0].filters[0].cors"),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: content-length, value: x}]}}]",
            "spec.rules[0].filters[0].requestHeaderModifier.set[0].name",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: ['a b']}}]",
            "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]",
            "spec.rules[0].filters[0].requestRedirect.statusCode",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /a}}}]",
            "spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: 'a:80'}}]",
            "spec.rules[0].filters[0].urlRewrite.hostname",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 101}}]",
            "spec.rules[0].filters[0].requestMirror",
        ),
    ] {
        let (route, fields) = route(&format!("{TO_WEB}, rules: [{{{rule}}}]"));
        assert_eq!(fields, [field], "{rule}");
        assert_eq!(route, None, "{rule}");
    }
}

#[test]
fn filters_are_read() {
    let (route, fields) = route(&format!(
        "{TO_WEB}, rules: [{{
           matches: [{{path: {{type: RegularExpression, value: '/v[0-9]+'}}, queryParams: [{{name: q, value: '1'}}]}}],
           filters: [
             {{type: RequestHeaderModifier, requestHeaderModifier: {{
               set: [{{name: A, value: one}}, {{name: a, value: two}}], add: [{{name: b, value: x}}], remove: [C]}}}},
             {{type: ResponseHeaderModifier, responseHeaderModifier: {{remove: [d]}}}},
             {{type: URLRewrite, urlRewrite: {{hostname: other.example, path: {{
               type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}}},
             {{type: CORS, cors: {{allowOrigins: ['https://*.example', 'https://a', '*'], allowMethods: [GET]}}}}],
           backendRefs: [{{name: a, port: 80, filters: [
             {{type: RequestHeaderModifier, requestHeaderModifier: {{remove: [e]}}}}]}}]}}]"
    ));
    assert_eq!(fields, Vec::<String>::new());
    let rule = &route.unwrap().rules[0];
    let HeaderEdits { set, add, remove } = &rule.filters.request;
    assert_eq!(set, &[("a".parse().unwrap(), "one".parse().unwrap())]);
    assert_eq!((add.len(), remove.len()), (1, 1));
    assert_eq!(rule.filters.response.remove, ["d"]);
    assert_eq!(rule.filters.rewrite.authority.as_ref().unwrap(), "other.example");
    assert_eq!(
        rule.filters.rewrite.path,
        Some(PathRewrite::Prefix("/new".into()))
    );
    let cors = rule.cors.as_ref().unwrap();
    assert_eq!(
        cors.origins,
        [
            OriginMatch::Wildcard("https://".into(), ".example".into()),
            OriginMatch::Exact("https://a".into()),
            OriginMatch::Any,
        ]
    );
    assert_eq!(cors.max_age, Some(Duration::from_secs(5)));
    assert_eq!(rule.backends()[0].filters.request.remove, ["e"]);
}

#[test]
fn a_redirect_excludes_a_rewrite_and_backends() {
    let (route, fields) = route(&format!(
        "{TO_WEB}, rules: [{{backendRefs: [{{name: a, port: 80}}], filters: [
           {{type: URLRewrite, urlRewrite: {{hostname: a}}}}, {{type: RequestRedirect, requestRedirect: {{}}}}]}}]"
    ));
    assert_eq!(fields, ["spec.rules[0].filters", "spec.rules[0].backendRefs"]);
    assert_eq!(route.unwrap().rules[0].action, RuleAction::Forward(Vec::new()));
}

#[test]
fn mirrors_are_read_with_their_shares() {
    for (share, expected) in [
        ("", Share::ALL),
        (
            ", percent: 5",
            Share {
                numerator: 5,
                denominator: 100,
            },
        ),
        (
            ", fraction: {numerator: 1, denominator: 3}",
            Share {
                numerator: 1,
                denominator: 3,
            },
        ),
    ] {
        let (route, fields) = route(&format!(
            "{TO_WEB}, rules: [{{backendRefs: [{{name: a, port: 80}}], filters: [{{
               type: RequestMirror, requestMirror: {{backendRef: {{name: copy, port: 80}}{share}}}}}]}}]"
        ));
        assert_eq!(fields, Vec::<String>::new());
        let rule = &route.unwrap().rules[0];
        assert_eq!(rule.filters.mirrors[0].share, expected);
        assert_eq!(rule.backends().len(), 1);
    }
}

#[test]
fn several_mirrors_may_stand_in_a_list_and_one_that_cannot_be_is_none() {
    let mirror = |to: &str| format!("{{type: RequestMirror, requestMirror: {{backendRef: {{{to}}}}}}}");
    let (route, fields) = route(&format!(
        "{TO_WEB}, rules: [{{backendRefs: [{{name: a, port: 80}}], filters: [{}, {}, {}]}}]",
        mirror("name: one, port: 80"),
        mirror("name: two, port: 80"),
        mirror("kind: Bucket, name: three"),
    ));
    assert_eq!(fields, ["spec.rules[0].filters[2].requestMirror.backendRef.kind"]);
    let rule = &route.unwrap().rules[0];
    assert_eq!((rule.filters.mirrors.len(), rule.backends().len()), (3, 1));
}

#[test]
fn a_redirect_takes_the_place_of_backends() {
    let (route, fields) = route(&format!(
        "{TO_WEB}, rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{
           scheme: https, hostname: other.example, port: 8443, statusCode: 301,
           path: {{type: ReplaceFullPath, replaceFullPath: /new}}}}}}]}}]"
    ));
    assert_eq!(fields, Vec::<String>::new());
    let RuleAction::Redirect(redirect) = &route.unwrap().rules[0].action else {
        panic!("no redirect");
    };
    assert_eq!(redirect.scheme, Some(http::uri::Scheme::HTTPS));
    assert_eq!(redirect.host.as_deref(), Some("other.example"));
    assert_eq!((redirect.port, redirect.status.as_u16()), (Some(8443), 301));
    assert_eq!(redirect.path, Some(PathRewrite::Full("/new".into())));
}

fn grpc(rules: &str) -> (Option<HttpRoute>, Vec<String>) {
    let mut reading = read(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: r, namespace: shop}}, spec: \
         {{{TO_WEB}, rules: {rules}}}}}"
    ));
    let fields = named(&reading)
        .into_iter()
        .map(|(_, field)| field.to_owned())
        .collect();
    (reading.facts.http_routes.pop(), fields)
}

#[test]
fn a_grpc_method_is_a_path() {
    for (method, expected) in [
        ("{service: a.B, method: Get}", PathMatch::Exact("/a.B/Get".into())),
        ("{service: a.B}", PathMatch::Prefix("/a.B".into())),
        ("{}", PathMatch::Prefix("/".into())),
    ] {
        let (route, fields) = grpc(&format!("[{{matches: [{{method: {method}}}]}}]"));
        assert_eq!(fields, Vec::<String>::new());
        let route = route.unwrap();
        assert_eq!(
            (route.kind, &route.rules[0].matches[0].path),
            (RouteKind::Grpc, &expected)
        );
    }
    for (method, holds, fails) in [
        ("{method: Get}", "/any.Service/Get", "/any.Service/Put"),
        (
            "{type: RegularExpression, service: 'a.*', method: 'G.t'}",
            "/abc/Got",
            "/b/Got",
        ),
        ("{type: RegularExpression, service: 'a|b'}", "/b/Any", "/ab/Any"),
    ] {
        let route = grpc(&format!("[{{matches: [{{method: {method}}}]}}]")).0.unwrap();
        let PathMatch::Regex(pattern) = &route.rules[0].matches[0].path else {
            panic!("no expression");
        };
        assert!(
            pattern.matches(holds.as_bytes()) && !pattern.matches(fails.as_bytes()),
            "{method}"
        );
    }
}

#[test]
fn what_a_grpc_route_cannot_do_makes_its_rule_refuse() {
    for (rule, field) in [
        ("timeouts: {request: 1s}", "spec.rules[0].timeouts"),
        ("matches: [{path: {value: /a}}]", "spec.rules[0].matches[0].path"),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]",
            "spec.rules[0].filters",
        ),
    ] {
        let (route, fields) = grpc(&format!("[{{backendRefs: [{{name: a, port: 80}}], {rule}}}]"));
        assert_eq!(fields, [field]);
        assert!(route.unwrap().rules[0].backends().is_empty(), "{rule}");
    }
    let (route, fields) = grpc("[{matches: [{method: {service: 'a/b'}}]}]");
    assert_eq!(
        (route, fields),
        (None, vec!["spec.rules[0].matches[0].method".to_owned()])
    );
}
