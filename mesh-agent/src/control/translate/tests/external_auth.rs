//! `ExternalAuth` filters: what is read, and that nothing that is wrong with one opens what it guards.

use super::routes::{TO_WEB, route};
use super::{named, read};
use crate::mesh::policy::external::{
    AuthorizerTarget, CheckProtocol, CheckedBody, GrpcCheck, HttpCheck, NameMatch, OnError,
};
use crate::mesh::route::{Gate, RuleAction};
use crate::mesh::service::ServiceName;

fn exact(names: &[&str]) -> Vec<NameMatch> {
    names
        .iter()
        .map(|name| NameMatch::Exact((*name).into()))
        .collect()
}

/// The gate of a rule with this `externalAuth`.
fn gate(written: &str) -> Gate {
    let (route, fields) = route(&format!(
        "{TO_WEB}, rules: [{{filters: [{{type: ExternalAuth, externalAuth: {{{written}}}}}],
           backendRefs: [{{name: a, port: 80}}]}}]"
    ));
    assert_eq!(fields, Vec::<String>::new(), "{written}");
    route.unwrap().rules.remove(0).filters.gate.unwrap()
}

#[test]
fn a_service_that_must_let_requests_in_is_read_with_what_it_is_shown() {
    let over_http = gate("protocol: HTTP, backendRef: {name: opa, namespace: auth, port: 9000}");
    let field = "spec.rules[0].filters[0].externalAuth.backendRef";
    assert_eq!(over_http.field.as_ref(), field);
    let authorizer = over_http.authorizer;
    let service = ServiceName::new("auth", "opa");
    assert_eq!(authorizer.target, AuthorizerTarget::Service(service));
    assert_eq!((authorizer.port, authorizer.body), (9000, None));
    let refuse = OnError::Refuse(http::StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(authorizer.on_error, refuse);
    let all_but_content = HttpCheck {
        upstream_on_allow: vec![NameMatch::NotOfContent],
        ..HttpCheck::default()
    };
    assert_eq!(
        authorizer.protocol,
        CheckProtocol::Http(Box::new(all_but_content))
    );

    let more = gate(
        "protocol: HTTP, backendRef: {name: opa, port: 80}, forwardBody: {maxSize: 65535},
         http: {path: /check/, allowedHeaders: [X-A, cookie], allowedResponseHeaders: [X-Role]}",
    );
    let body = CheckedBody {
        max_bytes: 65535,
        allow_partial: false,
        as_bytes: true,
    };
    assert_eq!(more.authorizer.body, Some(body));
    let check = HttpCheck {
        path_prefix: "/check".into(),
        request_headers: exact(&["x-a", "cookie"]),
        upstream_on_allow: exact(&["x-role"]),
        ..HttpCheck::default()
    };
    assert_eq!(more.authorizer.protocol, CheckProtocol::Http(Box::new(check)));

    let over_grpc = gate(
        "protocol: GRPC, backendRef: {name: opa, port: 80}, grpc: {allowedHeaders: [X-A]}, forwardBody: {maxSize: 0}",
    );
    let request_headers = exact(&["x-a"]);
    assert_eq!(
        over_grpc.authorizer.protocol,
        CheckProtocol::Grpc(GrpcCheck { request_headers })
    );
    assert_eq!(over_grpc.authorizer.body, None);
}

#[test]
fn whatever_is_wrong_with_it_makes_the_rule_refuse_and_not_the_route_vanish() {
    let to = "backendRef: {name: opa, port: 80}";
    for (written, field) in [
        (format!("protocol: TCP, {to}"), "protocol"),
        (to.to_owned(), ""),
        (format!("protocol: HTTP, {to}, failOpen: true"), "failOpen"),
        (format!("protocol: HTTP, {to}, grpc: {{}}"), "grpc"),
        (format!("protocol: GRPC, {to}, http: {{}}"), "http"),
        (
            "protocol: HTTP, backendRef: {name: opa}".to_owned(),
            "backendRef.port",
        ),
        (
            "protocol: HTTP, backendRef: {name: opa, port: 80, kind: Bucket}".to_owned(),
            "backendRef.kind",
        ),
        (
            "protocol: HTTP, backendRef: {name: opa, port: 0}".to_owned(),
            "backendRef.port",
        ),
        (
            format!("protocol: HTTP, {to}, http: {{path: check}}"),
            "http.path",
        ),
        (
            format!("protocol: HTTP, {to}, http: {{path: '/a?b'}}"),
            "http.path",
        ),
        (
            format!("protocol: HTTP, {to}, http: {{allowedHeaders: ['a b']}}"),
            "http.allowedHeaders[0]",
        ),
        (
            format!("protocol: HTTP, {to}, http: {{allowedResponseHeaders: [x-*, 'b c']}}"),
            "http.allowedResponseHeaders[1]",
        ),
        (
            format!("protocol: GRPC, {to}, grpc: {{allowedHeaders: [':path']}}"),
            "grpc.allowedHeaders[0]",
        ),
        (
            format!("protocol: HTTP, {to}, forwardBody: {{maxSize: 65536}}"),
            "forwardBody.maxSize",
        ),
        (
            format!("protocol: HTTP, {to}, forwardBody: {{maxSize: -1}}"),
            "forwardBody.maxSize",
        ),
    ] {
        for of_backend in [false, true] {
            let filter = format!("filters: [{{type: ExternalAuth, externalAuth: {{{written}}}}}]");
            let (rule, at) = if of_backend {
                (
                    format!("backendRefs: [{{name: a, port: 80, {filter}}}]"),
                    "spec.rules[0].backendRefs[0]",
                )
            } else {
                (
                    format!("{filter}, backendRefs: [{{name: a, port: 80}}]"),
                    "spec.rules[0]",
                )
            };
            let (route, fields) = route(&format!("{TO_WEB}, rules: [{{{rule}}}]"));
            let dot = if field.is_empty() { "" } else { "." };
            assert_eq!(
                fields,
                [format!("{at}.filters[0].externalAuth{dot}{field}")],
                "{written}"
            );
            let action = &route.unwrap().rules[0].action;
            assert_eq!(*action, RuleAction::Forward(Vec::new()), "{written}");
        }
    }
}

#[test]
fn it_may_stand_once_and_not_without_its_part() {
    let one = "{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: opa, port: 80}}}";
    for (filters, field) in [
        (format!("{one}, {one}"), "spec.rules[0].filters[1].externalAuth"),
        (
            "{type: ExternalAuth}".to_owned(),
            "spec.rules[0].filters[0].externalAuth",
        ),
    ] {
        let (route, fields) = route(&format!(
            "{TO_WEB}, rules: [{{filters: [{filters}], backendRefs: [{{name: a, port: 80}}]}}]"
        ));
        assert_eq!(fields, [field]);
        assert!(route.unwrap().rules[0].backends().is_empty());
    }
}

#[test]
fn a_grpc_route_knows_no_such_filter() {
    let reading = read(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: r, namespace: shop}, spec: {
           parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: a, port: 80}],
           filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: opa, port: 80}}}]}]}}",
    );
    let fields: Vec<_> = named(&reading).into_iter().map(|(_, field)| field).collect();
    assert_eq!(fields, ["spec.rules[0].filters[0].type"]);
    assert!(reading.facts.http_routes[0].rules[0].backends().is_empty());
}
