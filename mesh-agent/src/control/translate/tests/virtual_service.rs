//! VirtualServices: what is read, what is ignored, what makes a rule refuse.

use std::time::Duration;

use http::StatusCode;

use super::{named, read};
use crate::control::Reading;
use crate::mesh::route::{
    Abort, Audience, BackendTarget, HttpRoute, HttpRule, PathMatch, PathRewrite, RetryOn, RouteKind,
    RuleAction, Share, ValueMatch,
};
use crate::mesh::service::ServiceName;

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: two, namespace: shop}, spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}, {name: http-b, port: 81}]}}
";

fn manifest(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: \
         shop}}, spec: {{{spec}}}}}\n"
    )
}

fn reading(virtual_services: &[(&str, &str)]) -> Reading {
    let objects = virtual_services.iter().map(|(name, spec)| manifest(name, spec));
    read(&format!("{SERVICES}{}", objects.collect::<String>()))
}

fn fields(reading: &Reading) -> Vec<String> {
    named(reading)
        .into_iter()
        .map(|(_, field)| field.to_owned())
        .collect()
}

pub(super) fn translated(spec: &str) -> (Option<HttpRoute>, Vec<String>) {
    let mut reading = reading(&[("v", spec)]);
    let fields = fields(&reading);
    (reading.facts.http_routes.pop(), fields)
}

/// The first rule of a VirtualService for `web`, of which nothing is reported.
pub(super) fn rule(written: &str) -> HttpRule {
    let (route, fields) = translated(&format!("hosts: [web], http: [{{{written}}}]"));
    assert_eq!(fields, Vec::<String>::new(), "{written}");
    route.unwrap().rules.remove(0)
}

const TO_WEB: &str = "route: [{destination: {host: web}}]";

#[test]
fn hosts_name_services_and_gateways_and_exports_say_for_whom() {
    for (spec, hosts, audience) in [
        ("hosts: [web]", "shop/web", Audience::Everybody),
        (
            "hosts: [web.bank], exportTo: ['*']",
            "bank/web",
            Audience::Everybody,
        ),
        (
            "hosts: [web.bank.svc.cluster.local, web.bank], gateways: [mesh, g], exportTo: [., x, .]",
            "bank/web",
            Audience::Namespaces(vec!["shop".into(), "x".into()]),
        ),
    ] {
        let (route, fields) = translated(&format!("{spec}, http: [{{{TO_WEB}}}]"));
        assert_eq!(fields, Vec::<String>::new(), "{spec}");
        let route = route.unwrap();
        assert_eq!(route.kind, RouteKind::Virtual);
        assert_eq!(
            (route.parents.len(), route.parents[0].service.to_string().as_str()),
            (1, hosts)
        );
        assert_eq!(route.audience, audience, "{spec}");
    }
    for (spec, expected) in [
        ("hosts: [web], gateways: [outer]", vec![]),
        ("hosts: []", vec![]),
        ("hosts: ['*'], gateways: [mesh]", vec!["spec.hosts[0]"]),
        ("hosts: [api.example.com]", vec!["spec.hosts[0]"]),
    ] {
        let (route, fields) = translated(&format!("{spec}, http: [{{{TO_WEB}}}]"));
        assert_eq!(
            (route, fields),
            (None, expected.into_iter().map(str::to_owned).collect()),
            "{spec}"
        );
    }
}

#[test]
fn a_path_is_matched_by_text_and_not_by_elements() {
    let path = |written: &str| {
        rule(&format!("match: [{{{written}}}], {TO_WEB}"))
            .matches
            .remove(0)
            .path
    };
    let beginning = |ignores_case| PathMatch::Beginning {
        text: "/a".into(),
        ignores_case,
    };
    assert_eq!(path("uri: {exact: /a}"), PathMatch::Exact("/a".into()));
    assert_eq!(path("uri: {prefix: /a}"), beginning(false));
    assert_eq!(path("uri: {prefix: /a}, ignoreUriCase: true"), beginning(true));
    assert_eq!(
        path("uri: {exact: /a}, ignoreUriCase: true"),
        PathMatch::AnyCase("/a".into())
    );
    assert!(matches!(path("uri: {regex: '/a.*'}"), PathMatch::Regex(_)));
    assert_eq!(path("method: {exact: GET}"), PathMatch::Prefix("/".into()));
}

#[test]
fn all_other_conditions_are_read() {
    let rule = rule(&format!(
        "match: [{{name: m, method: {{exact: GET}}, authority: {{prefix: web.}}, headers: {{X-A: {{exact: '1'}}, b: {{}}}},
           withoutHeaders: {{c: {{regex: '.*'}}}}, queryParams: {{q: {{prefix: x}}}}, port: 80,
           sourceLabels: {{app: cart}}, sourceNamespace: shop, gateways: [mesh]}},
          {{scheme: {{exact: https}}}}, {{gateways: [outer]}}, {{method: {{prefix: P}}}}], {TO_WEB}"
    ));
    // Nothing between pods has another scheme, and Gateways are not ours.
    assert_eq!(rule.matches.len(), 2);
    let first = &rule.matches[0];
    assert_eq!(first.method.as_deref(), Some("GET"));
    let names: Vec<_> = first
        .headers
        .iter()
        .map(|header| (&*header.name, header.value.clone()))
        .collect();
    assert!(names.contains(&("x-a", ValueMatch::Exact("1".into()))));
    assert!(names.contains(&("b", ValueMatch::Present)));
    assert_eq!(first.query[0].value, ValueMatch::Prefix("x".into()));
    let further = first.further.as_deref().unwrap();
    assert_eq!(further.authority, Some(ValueMatch::Prefix("web.".into())));
    assert_eq!(&*further.without_headers[0].name, "c");
    assert_eq!(
        (further.port, further.source_namespace.as_deref()),
        (Some(80), Some("shop"))
    );
    assert_eq!(further.source_labels, [("app".to_owned(), "cart".to_owned())]);
    let second = rule.matches[1].further.as_deref().unwrap();
    assert_eq!(second.method, Some(ValueMatch::Prefix("P".into())));
}

#[test]
fn destinations_have_weights_ports_and_headers() {
    let rule = rule(
        "route: [
           {destination: {host: web}, weight: 90, headers: {request: {set: {a: '1', host: other.example}}}},
           {destination: {host: v2.bank, port: {number: 8080}, subset: red}, weight: 10}],
         headers: {response: {add: {b: '2'}, remove: [c]}}",
    );
    let targets: Vec<_> = rule
        .backends()
        .iter()
        .map(|one| (one.target.clone(), one.weight))
        .collect();
    assert_eq!(
        targets,
        [
            (BackendTarget::Service(ServiceName::new("shop", "web"), 80), 90),
            (
                BackendTarget::Subset(ServiceName::new("bank", "v2"), 8080, "red".into()),
                10
            ),
        ]
    );
    let filters = &rule.backends()[0].filters;
    assert_eq!(filters.request.set.len(), 1);
    assert_eq!(filters.rewrite.authority.as_ref().unwrap(), "other.example");
    assert_eq!(
        (
            rule.filters.response.add.len(),
            rule.filters.response.remove.len()
        ),
        (1, 1)
    );
}

#[test]
fn a_destination_that_cannot_be_keeps_its_share() {
    for (destination, field) in [
        ("host: web, colour: red", "colour"),
        ("host: two", "port"),
        ("host: absent", "host"),
        ("host: '*.example.com'", "host"),
    ] {
        let (route, fields) = translated(&format!(
            "hosts: [web], http: [{{route: [{{destination: {{{destination}}}}}]}}]"
        ));
        assert_eq!(fields, [format!("spec.http[0].route[0].destination.{field}")]);
        assert_eq!(
            route.unwrap().rules[0].backends()[0].target,
            BackendTarget::Invalid
        );
    }
}

#[test]
fn answers_rewrites_and_limits_are_read() {
    let RuleAction::Redirect(redirect) =
        rule("redirect: {uri: /x, authority: other.example, redirectCode: 308}").action
    else {
        panic!("no redirect");
    };
    assert_eq!(
        (redirect.host.as_deref(), redirect.port),
        (Some("other.example"), Some(80))
    );
    assert_eq!(redirect.path, Some(PathRewrite::Full("/x".into())));
    assert_eq!(redirect.status, StatusCode::PERMANENT_REDIRECT);
    let RuleAction::Respond(response) = rule("directResponse: {status: 418, body: {string: tea}}").action
    else {
        panic!("no response");
    };
    assert_eq!(
        (response.status.as_u16(), &*response.body),
        (418, b"tea".as_slice())
    );
    let read = rule(&format!(
        "rewrite: {{uriRegexRewrite: {{match: '^/a/(.*)$', rewrite: '/\\1$'}}}}, timeout: 1.5s, {TO_WEB}"
    ));
    assert!(matches!(&read.filters.rewrite.path, Some(PathRewrite::Regex(_, to)) if &**to == "/${1}$$"));
    assert_eq!(read.request_timeout, Some(Duration::from_millis(1500)));
}

#[test]
fn retries_are_read_and_none_means_never() {
    assert_eq!(rule(TO_WEB).retry, None);
    assert_eq!(rule(&format!("retries: {{attempts: 0}}, {TO_WEB}")).retry, None);
    let written = format!("retries: {{attempts: 3, perTryTimeout: 2s, retryOn: '5xx,503'}}, {TO_WEB}");
    let read = rule(&written);
    let retry = read.retry.unwrap();
    assert_eq!(
        (retry.attempts, read.attempt_timeout),
        (3, Some(Duration::from_secs(2)))
    );
    assert_eq!(
        retry.on,
        [
            RetryOn::ServerError,
            RetryOn::Status(StatusCode::SERVICE_UNAVAILABLE)
        ]
    );
    assert!(retry.avoids_previous && !retry.leaves_localities);
    let written = format!(
        "retries: {{attempts: 1, retryIgnorePreviousHosts: false, retryRemoteLocalities: true}}, {TO_WEB}"
    );
    let retry = rule(&written).retry.unwrap();
    assert!(!retry.avoids_previous && retry.leaves_localities);
    let written = format!("retries: {{attempts: 1}}, {TO_WEB}");
    let by_default = rule(&written).retry.unwrap();
    assert_eq!(by_default.on.len(), 4);
}

#[test]
fn faults_have_shares_down_to_a_millionth() {
    let of = |numerator| Share {
        numerator,
        denominator: 1_000_000,
    };
    let fault = |written: &str| rule(&format!("fault: {{{written}}}, {TO_WEB}")).fault;
    let both = fault(
        "delay: {fixedDelay: 3s, percentage: {value: 0.0001}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}",
    )
    .unwrap();
    assert_eq!(both.delay, Some((Duration::from_secs(3), of(1))));
    assert_eq!(both.abort, Some((Abort::Grpc(14), of(1_000_000))));
    let abort = fault("abort: {httpStatus: 503, percent: 7}")
        .unwrap()
        .abort
        .unwrap();
    assert_eq!(abort.0, Abort::Http(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!((abort.1.numerator, abort.1.denominator), (7, 100));
    let unsaid = fault("abort: {httpStatus: 503}").unwrap().abort.unwrap().1;
    assert_eq!(unsaid.numerator, 0, "without a percentage none is aborted");
}

#[test]
fn mirrors_and_cors_are_read() {
    let written = format!(
        "mirror: {{host: web}}, mirrorPercentage: {{value: 10}}, mirrors: [{{destination: {{host: web}}}}],
         corsPolicy: {{allowOrigins: [{{exact: '*'}}, {{prefix: 'https://a.'}}], allowMethods: [GET], maxAge: 24h}}, {TO_WEB}"
    );
    let read = rule(&written);
    let shares: Vec<_> = read.filters.mirrors.iter().map(|mirror| mirror.share).collect();
    assert_eq!(
        shares,
        [
            Share {
                numerator: 100_000,
                denominator: 1_000_000
            },
            Share::ALL
        ]
    );
    let cors = read.cors.unwrap();
    assert_eq!(
        (cors.origins.len(), cors.max_age),
        (2, Some(Duration::from_hours(24)))
    );
}

#[test]
fn what_would_send_requests_astray_makes_the_rule_refuse() {
    for (written, field) in [
        ("match: [{hosts: x}]", "match[0].hosts"),
        ("headers: {trailers: {}}", "headers.trailers"),
        ("redirect: {uri: /x}", "route"),
        ("websocketUpgrade: true", "websocketUpgrade"),
        ("delegate: {name: absent}", "delegate"),
    ] {
        let (route, fields) = translated(&format!("hosts: [web], http: [{{{written}, {TO_WEB}}}]"));
        assert_eq!(fields, [format!("spec.http[0].{field}")], "{written}");
        assert_eq!(route.unwrap().rules[0].backends(), [], "{written}");
    }
    for written in [
        "timeout: soon",
        "match: [{uri: {regex: '('}}]",
        "fault: {abort: {httpStatus: 99}}",
    ] {
        let (route, fields) = translated(&format!("hosts: [web], http: [{{{written}, {TO_WEB}}}]"));
        assert_eq!((route, fields.len()), (None, 1), "{written}");
    }
}

#[test]
fn a_delegate_decides_within_what_its_root_matches() {
    let root = "hosts: [web], http: [
        {match: [{uri: {prefix: /a}}, {headers: {h: {}}}], delegate: {name: d}, timeout: 1s}, {delegate: {name: nobody}}]";
    let delegate = "http: [{match: [{uri: {exact: /a/b}}], route: [{destination: {host: web}}]},
        {timeout: 2s, route: [{destination: {host: web}}]}]";
    let mut reading = reading(&[("v", root), ("d", delegate)]);
    assert_eq!(fields(&reading), ["spec.http[1].delegate"]);
    let rules = reading.facts.http_routes.remove(0).rules;
    assert_eq!(reading.facts.http_routes, []);
    assert_eq!(rules.len(), 3);
    let matches: Vec<_> = rules[0]
        .matches
        .iter()
        .map(|one| (one.path.clone(), one.further.as_ref().unwrap().root.is_some()))
        .collect();
    assert_eq!(
        matches,
        [
            (PathMatch::Exact("/a/b".into()), true),
            (PathMatch::Exact("/a/b".into()), true)
        ]
    );
    let limits: Vec<_> = rules.iter().map(|rule| rule.request_timeout).collect();
    assert_eq!(
        limits,
        [Some(Duration::from_secs(1)), Some(Duration::from_secs(2)), None]
    );
    assert_eq!(rules[2].backends(), [], "without its delegate it answers 500");
}

#[test]
fn a_match_that_cannot_be_honoured_delegates_nothing() {
    let reading = reading(&[
        (
            "v",
            "hosts: [web], http: [{match: [{hosts: x}], delegate: {name: d}}]",
        ),
        ("d", "http: [{route: [{destination: {host: web}}]}]"),
    ]);
    assert_eq!(fields(&reading), ["spec.http[0].match[0].hosts"]);
    assert_eq!(reading.facts.http_routes[0].rules[0].backends(), []);
}

#[test]
fn a_delegate_delegates_no_further() {
    let reading = reading(&[
        ("v", "hosts: [web], http: [{delegate: {name: d}}]"),
        ("d", "http: [{delegate: {name: d}}]"),
    ]);
    assert!(fields(&reading).contains(&"spec.http[0].delegate".to_owned()));
    assert_eq!(reading.facts.http_routes[0].rules[0].backends(), []);
}

#[test]
fn delegates_that_lead_in_a_circle_are_named_and_refuse() {
    let reading = reading(&[
        ("v", "hosts: [web], http: [{delegate: {name: a}}]"),
        ("a", "http: [{delegate: {name: b}}]"),
        ("b", "http: [{delegate: {name: a}}]"),
    ]);
    assert!(fields(&reading).contains(&"spec.http[0].delegate".to_owned()));
    assert_eq!(reading.facts.http_routes.len(), 1);
    assert_eq!(reading.facts.http_routes[0].rules[0].backends(), []);
}

#[test]
fn weights_that_are_all_zero_are_named_and_refuse() {
    let none =
        "{destination: {host: web}, weight: 0}, {destination: {host: two, port: {number: 80}}, weight: 0}";
    let (route, fields) = translated(&format!("hosts: [web], http: [{{route: [{none}]}}]"));
    assert_eq!(fields, ["spec.http[0].route"]);
    assert_eq!(route.unwrap().rules[0].backends(), []);
}
