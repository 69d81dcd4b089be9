//! HTTPRoutes: what is read, what is ignored, what makes a rule refuse.

use std::time::Duration;

use super::{named, read};
use crate::mesh::route::{BackendTarget, FieldMatch, HttpRoute, PathMatch, RetryOn, ValueMatch};
use crate::mesh::service::ServiceName;

pub(super) const TO_WEB: &str = "parentRefs: [{group: '', kind: Service, name: web}]";

pub(super) fn route(spec: &str) -> (Option<HttpRoute>, Vec<String>) {
    let mut reading = read(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}}, spec: \
         {{{spec}}}}}"
    ));
    let fields = named(&reading)
        .into_iter()
        .map(|(_, field)| field.to_owned())
        .collect();
    (reading.facts.http_routes.pop(), fields)
}

#[test]
fn a_route_is_read_with_matches_backends_and_timeout() {
    let (route, fields) = route(
        "hostnames: [ignored.example], parentRefs: [
           {group: '', kind: Service, name: web, port: 80, sectionName: http},
           {group: '', kind: Service, name: web, namespace: bank},
           {name: gateway}],
         rules: [{
           name: first,
           matches: [
             {path: {type: Exact, value: /a}, method: GET, headers: [{name: Version, value: '2'}]},
             {path: {value: /b}}, {}],
           backendRefs: [{name: v1, port: 80, weight: 9}, {name: v2, namespace: bank, port: 81}],
           timeouts: {request: 1s500ms, backendRequest: 1s}}, {}]",
    );
    assert_eq!(fields, Vec::<String>::new());
    let route = route.unwrap();
    assert_eq!(route.parents.len(), 2);
    assert_eq!(route.parents[0].service, ServiceName::new("shop", "web"));
    assert_eq!(
        (route.parents[0].port, route.parents[0].section.as_deref()),
        (Some(80), Some("http"))
    );
    assert_eq!(route.parents[1].service, ServiceName::new("bank", "web"));
    let rule = &route.rules[0];
    assert_eq!(rule.name.as_deref(), Some("first"));
    assert_eq!(rule.request_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(rule.attempt_timeout, Some(Duration::from_secs(1)));
    let paths: Vec<_> = rule.matches.iter().map(|m| m.path.clone()).collect();
    assert_eq!(
        paths,
        [
            PathMatch::Exact("/a".into()),
            PathMatch::Prefix("/b".into()),
            PathMatch::Prefix("/".into())
        ]
    );
    assert_eq!(rule.matches[0].method.as_deref(), Some("GET"));
    assert_eq!(
        rule.matches[0].headers,
        [FieldMatch {
            name: "version".into(),
            value: ValueMatch::Exact("2".into())
        }]
    );
    assert_eq!(
        rule.backends()[0].target,
        BackendTarget::Service(ServiceName::new("shop", "v1"), 80)
    );
    assert_eq!(
        rule.backends()[1].target,
        BackendTarget::Service(ServiceName::new("bank", "v2"), 81)
    );
    assert_eq!((rule.backends()[0].weight, rule.backends()[1].weight), (9, 1));
    assert_eq!(
        route.rules[1].matches.len(),
        1,
        "a rule without matches matches everything"
    );
}

#[test]
fn a_route_without_a_service_is_not_ours() {
    for parents in [
        "",
        "parentRefs: [{name: gateway}]",
        "parentRefs: [{kind: Service, group: example.com, name: s}]",
    ] {
        assert_eq!(route(parents).0, None, "{parents}");
    }
    assert_eq!(
        route("parentRefs: [{kind: Service, name: s}]").1,
        ["spec.parentRefs[0].group"]
    );
}

#[test]
fn what_does_not_change_the_backend_is_reported_and_ignored() {
    for (rule, field) in [
        (
            "sessionPersistence: {sessionName: s, idleTimeout: 1h}",
            "spec.rules[0].sessionPersistence.idleTimeout",
        ),
        (
            "sessionPersistence: {cookieConfig: {domain: example.com}}",
            "spec.rules[0].sessionPersistence.cookieConfig.domain",
        ),
        ("retry: {unless: Sunday}", "spec.rules[0].retry.unless"),
    ] {
        let (route, fields) = route(&format!(
            "{TO_WEB}, rules: [{{backendRefs: [{{name: a, port: 80}}], {rule}}}]"
        ));
        assert_eq!(fields, [field]);
        assert_eq!(route.unwrap().rules[0].backends().len(), 1, "{rule}");
    }
}

#[test]
fn retries_are_read_with_our_defaults_where_the_api_has_none() {
    let retry = |written: &str| {
        let (route, fields) = route(&format!(
            "{TO_WEB}, rules: [{{backendRefs: [{{name: a, port: 80}}], {written}}}]"
        ));
        assert_eq!(fields, Vec::<String>::new(), "{written}");
        route.unwrap().rules.remove(0).retry
    };
    assert_eq!(retry("name: without"), None);
    let read = retry("retry: {codes: [500, 503], attempts: 3, backoff: 100ms}").unwrap();
    let status = |code| RetryOn::Status(http::StatusCode::from_u16(code).unwrap());
    assert_eq!(read.on, [RetryOn::Reset, status(500), status(503)]);
    let pause = Duration::from_millis(100);
    assert_eq!((read.attempts, read.backoff, read.least_pause), (3, pause, pause));
    let by_default = retry("retry: {codes: [500]}").unwrap();
    assert_eq!(
        (by_default.attempts, by_default.backoff, by_default.least_pause),
        (2, Duration::from_millis(25), Duration::ZERO)
    );
}

#[test]
fn what_would_send_requests_astray_makes_the_rule_refuse() {
    for (rule, field) in [
        ("matches: [{header: []}]", "spec.rules[0].matches[0].header"),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}]",
            "spec.rules[0].filters[0].type",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}]",
            "spec.rules[0].filters[1].urlRewrite",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: a}, cors: {}}]",
            "spec.rules[0].filters[0].cors",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {}}]",
            "spec.rules[0].backendRefs",
        ),
        ("backendRef: []", "spec.rules[0].backendRef"),
    ] {
        let (route, fields) = route(&format!(
            "{TO_WEB}, rules: [{{backendRefs: [{{name: a, port: 80}}], {rule}}}]"
        ));
        assert_eq!(fields, [field]);
        let rule_read = &route.unwrap().rules[0];
        assert!(rule_read.backends().is_empty(), "{rule}");
        assert_eq!(rule_read.matches.len(), 1, "{rule}");
    }
    let (route, fields) = route(&format!(
        "{TO_WEB}, rules: [{{backendRefs: [{{name: a, port: 80, filters: [{{type: New}}]}}]}}]"
    ));
    assert_eq!(fields, ["spec.rules[0].backendRefs[0].filters[0].type"]);
    assert!(route.unwrap().rules[0].backends().is_empty());
}

#[test]
fn a_backend_that_cannot_be_keeps_its_share() {
    for (backend, field) in [
        ("name: a", "spec.rules[0].backendRefs[0].port"),
        (
            "name: a, kind: Bucket, group: example.com",
            "spec.rules[0].backendRefs[0].kind",
        ),
    ] {
        let (route, fields) = route(&format!("{TO_WEB}, rules: [{{backendRefs: [{{{backend}}}]}}]"));
        assert_eq!(fields, [field]);
        assert_eq!(
            route.unwrap().rules[0].backends()[0].target,
            BackendTarget::Invalid
        );
    }
}

#[test]
fn a_malformed_route_is_left_out_whole() {
    for (rule, field) in [
        (
            "matches: [{path: {type: Exact, value: a}}]",
            "spec.rules[0].matches[0].path.value",
        ),
        (
            "matches: [{path: {type: Suffix}}]",
            "spec.rules[0].matches[0].path.type",
        ),
        ("matches: [{method: FETCH}]", "spec.rules[0].matches[0].method"),
        (
            "matches: [{headers: [{name: 'a b', value: x}]}]",
            "spec.rules[0].matches[0].headers[0].name",
        ),
        (
            "matches: [{headers: [{name: a, value: \"x\\n\"}]}]",
            "spec.rules[0].matches[0].headers[0].value",
        ),
        ("matches: 5", "spec.rules[0].matches"),
        (
            "backendRefs: [{name: a, port: 0}]",
            "spec.rules[0].backendRefs[0].port",
        ),
        (
            "backendRefs: [{name: a, port: 80, weight: -1}]",
            "spec.rules[0].backendRefs[0].weight",
        ),
        ("backendRefs: [{port: 80}]", "spec.rules[0].backendRefs[0]"),
        (
            "matches: [{path: {type: RegularExpression, value: '('}}]",
            "spec.rules[0].matches[0].path.value",
        ),
        (
            "matches: [{headers: [{type: RegularExpression, name: a, value: '['}]}]",
            "spec.rules[0].matches[0].headers[0].value",
        ),
        (
            "matches: [{queryParams: [{type: RegularExpression, name: a, value: '((a{1000}){1000}){1000}'}]}]",
            "spec.rules[0].matches[0].queryParams[0].value",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            "spec.rules[0].timeouts.backendRequest",
        ),
        ("timeouts: {request: soon}", "spec.rules[0].timeouts.request"),
        ("timeouts: {request: 5}", "spec.rules[0].timeouts.request"),
    ] {
        let (route, fields) = route(&format!("{TO_WEB}, rules: [{{{rule}}}]"));
        assert_eq!(fields, [field], "{rule}");
        assert_eq!(route, None, "{rule}");
    }
    for (spec, field) in [
        ("parentRefs: 5", "spec.parentRefs"),
        (&format!("{TO_WEB}, rules: 5"), "spec.rules"),
    ] {
        assert_eq!(route(spec), (None, vec![field.to_owned()]));
    }
}

#[test]
fn a_route_without_rules_matches_everything_and_has_no_backend() {
    let route = route(TO_WEB).0.unwrap();
    assert_eq!(
        (route.rules[0].matches.len(), route.rules[0].backends().len()),
        (1, 0)
    );
}
