//! Routes of connections: `TCPRoute`, `TLSRoute`, and `tls` and `tcp` of a VirtualService.

use super::{named, read};
use crate::mesh::route::{
    Audience, BackendTarget, NamePattern, OpeningMatch, RouteKind, StreamMatch, StreamRoute,
};
use crate::mesh::service::ServiceName;

fn translated(api_version: &str, kind: &str, spec: &str) -> (Option<StreamRoute>, Vec<String>) {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.0.0.1, \
                   ports: [{name: tcp, port: 5432}]}}";
    let mut reading = read(&format!(
        "{service}\n---\n{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: r, namespace: shop}}, spec: \
         {{{spec}}}}}"
    ));
    let fields = named(&reading)
        .into_iter()
        .map(|(_, field)| field.to_owned())
        .collect();
    (reading.facts.stream_routes.pop(), fields)
}

fn gateway_api(kind: &str, spec: &str) -> (Option<StreamRoute>, Vec<String>) {
    translated("gateway.networking.k8s.io/v1alpha2", kind, spec)
}

fn virtual_service(spec: &str) -> (Option<StreamRoute>, Vec<String>) {
    translated("networking.istio.io/v1", "VirtualService", spec)
}

const TO_DB: &str = "parentRefs: [{group: '', kind: Service, name: db}]";
const ROUTE: &str = "route: [{destination: {host: db}}]";

fn exact(name: &str) -> OpeningMatch {
    OpeningMatch::Named(NamePattern::Exact(name.into()))
}

fn openings(route: &StreamRoute, rule: usize) -> Vec<OpeningMatch> {
    let matches = route.rules[rule].matches.iter();
    matches.map(|one| one.opening.clone()).collect()
}

#[test]
fn a_tcp_route_sends_every_connection_by_weight() {
    let spec = "parentRefs: [{group: '', kind: Service, name: db, port: 5432, sectionName: tcp}, {name: gateway}],
        rules: [{name: only, backendRefs: [{name: v1, port: 1, weight: 9}, {name: v2, namespace: bank, port: 2}]}]";
    for version in ["v1", "v1alpha2"] {
        let (route, fields) = translated(&format!("gateway.networking.k8s.io/{version}"), "TCPRoute", spec);
        assert_eq!(fields, Vec::<String>::new());
        let route = route.unwrap();
        assert_eq!(
            (route.kind, &route.audience),
            (RouteKind::Tcp, &Audience::ByNamespace)
        );
        assert_eq!(route.parents.len(), 1);
        assert_eq!(
            (route.parents[0].port, route.parents[0].section.as_deref()),
            (Some(5432), Some("tcp"))
        );
        assert_eq!(route.rules[0].matches, [StreamMatch::default()]);
        let backends: Vec<_> = route.rules[0]
            .backends
            .iter()
            .map(|one| (one.target.clone(), one.weight))
            .collect();
        let service = |namespace, name, port| BackendTarget::Service(ServiceName::new(namespace, name), port);
        assert_eq!(
            backends,
            [(service("shop", "v1", 1), 9), (service("bank", "v2", 2), 1)]
        );
    }
}

#[test]
fn a_tls_route_is_about_the_names_that_it_lists() {
    let rules = "rules: [{backendRefs: [{name: db, port: 5432}]}]";
    for version in ["v1", "v1alpha3", "v1alpha2"] {
        let (route, fields) = translated(
            &format!("gateway.networking.k8s.io/{version}"),
            "TLSRoute",
            &format!("{TO_DB}, hostnames: [A.example, '*.b.example', 10.0.0.1], {rules}"),
        );
        assert_eq!(fields, ["spec.hostnames[2]"]);
        let route = route.unwrap();
        assert_eq!(route.kind, RouteKind::Tls);
        let below = OpeningMatch::Named(NamePattern::Below(".b.example".into()));
        assert_eq!(openings(&route, 0), [exact("a.example"), below]);
    }
    let (route, fields) = gateway_api("TLSRoute", &format!("{TO_DB}, {rules}"));
    assert_eq!(fields, Vec::<String>::new());
    assert_eq!(openings(&route.unwrap(), 0), [OpeningMatch::Tls]);
    let (route, _) = gateway_api("TLSRoute", &format!("{TO_DB}, hostnames: ['a b'], {rules}"));
    assert_eq!(openings(&route.unwrap(), 0), [], "a wrong name is not every name");
}

#[test]
fn what_a_route_of_connections_cannot_have_is_named() {
    let backend = "backendRefs: [{name: db, port: 5432}]";
    // The fields that are named, and how many backends the first rule keeps; `None` for a route that is left out.
    let cases: [(&str, &[&str], Option<usize>); 8] = [
        ("rules: [{BACKEND}, {BACKEND}]", &["spec.rules[1]"], Some(1)),
        ("hostnames: [a], rules: [{BACKEND}]", &["spec.hostnames"], Some(1)),
        (
            "rules: [{matches: [{}], BACKEND}]",
            &["spec.rules[0].matches"],
            Some(0),
        ),
        (
            "rules: [{backendRefs: [{name: db, port: 1, filters: [{}]}]}]",
            &["spec.rules[0].backendRefs[0].filters"],
            Some(0),
        ),
        (
            "rules: [{backendRefs: [{name: db}]}]",
            &["spec.rules[0].backendRefs[0].port"],
            Some(1),
        ),
        ("rules: []", &["spec.rules"], None),
        ("rules: {}", &["spec.rules"], None),
        ("rules: [x]", &["spec.rules[0]"], None),
    ];
    for (spec, expected, kept) in cases {
        let spec = format!("{TO_DB}, {}", spec.replace("BACKEND", backend));
        let (route, mut fields) = gateway_api("TCPRoute", &spec);
        fields.truncate(expected.len());
        assert_eq!(fields, expected, "{spec}");
        assert_eq!(route.map(|route| route.rules[0].backends.len()), kept, "{spec}");
    }
}

#[test]
fn a_route_of_a_gateway_is_not_ours_and_udp_is_not_read() {
    let gateway = "parentRefs: [{name: g}], rules: [{backendRefs: [{name: db, port: 1}]}], hostnames: [x]";
    for kind in ["TCPRoute", "TLSRoute", "UDPRoute"] {
        assert_eq!(gateway_api(kind, gateway), (None, Vec::new()), "{kind}");
    }
    let (_, fields) = gateway_api("UDPRoute", TO_DB);
    assert_eq!(fields, ["kind"]);
}

#[test]
fn a_virtual_service_has_rules_for_names_before_those_for_bytes() {
    let (route, fields) = virtual_service(&format!(
        "hosts: [db], exportTo: [.], tcp: [
           {{match: [{{destinationSubnets: [10.0.0.0/8, 192.0.2.1], port: 5432, sourceLabels: {{app: web}},
                       sourceNamespace: shop, gateways: [mesh]}},
                     {{gateways: [edge]}}], {ROUTE}}},
           {{{ROUTE}}}],
         tls: [{{match: [{{sniHosts: [a.example, '*.b.example'], port: 443}}], route: [
             {{destination: {{host: db, subset: v1}}, weight: 1}}, {{destination: {{host: db}}, weight: 3}}]}}]"
    ));
    assert_eq!(fields, Vec::<String>::new());
    let route = route.unwrap();
    assert_eq!((route.kind, route.rules.len()), (RouteKind::Virtual, 3));
    assert_eq!(route.audience, Audience::Namespaces(vec!["shop".into()]));
    assert_eq!(openings(&route, 0)[0], exact("a.example"));
    assert!(route.rules[0].matches.iter().all(|one| one.port == Some(443)));
    let weights: Vec<_> = route.rules[0].backends.iter().map(|one| one.weight).collect();
    assert_eq!(weights, [1, 3]);
    assert_eq!(
        route.rules[0].backends[0].target,
        BackendTarget::Subset(ServiceName::new("shop", "db"), 5432, "v1".into())
    );
    let [only] = route.rules[1].matches.as_slice() else {
        panic!("the gateway's match is not ours: {:?}", route.rules[1]);
    };
    let blocks: Vec<_> = only.subnets.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.0.0.0/8", "192.0.2.1/32"]);
    assert_eq!(
        (only.port, only.source_namespace.as_deref()),
        (Some(5432), Some("shop"))
    );
    assert_eq!(only.source_labels, [("app".to_owned(), "web".to_owned())]);
    assert_eq!(route.rules[2].matches, [StreamMatch::default()]);
}

#[test]
fn what_a_virtual_service_cannot_have_for_connections_is_named_and_refuses() {
    let tls = |written: &str| format!("tls: [{{match: [{{{written}}}], {ROUTE}}}]");
    let tcp = |written: &str| format!("tcp: [{{{written}}}]");
    let cases = [
        (tls("port: 443"), "spec.tls[0].match[0].sniHosts", Some(0)),
        (format!("tls: [{{{ROUTE}}}]"), "spec.tls[0].match", Some(0)),
        (tls("sniHosts: ['a b']"), "spec.tls[0].match[0].sniHosts[0]", None),
        (
            tls("sniHosts: [a], sourceSubnet: x"),
            "spec.tls[0].match[0].sourceSubnet",
            Some(0),
        ),
        (
            tcp(&format!("match: [{{sniHosts: [a]}}], {ROUTE}")),
            "spec.tcp[0].match[0].sniHosts",
            Some(0),
        ),
        (
            tcp(&format!("match: [{{destinationSubnets: [x]}}], {ROUTE}")),
            "spec.tcp[0].match[0].destinationSubnets[0]",
            None,
        ),
        (
            tcp(&format!("timeout: 1s, {ROUTE}")),
            "spec.tcp[0].timeout",
            Some(0),
        ),
        (tcp("route: []"), "spec.tcp[0].route", Some(0)),
        (
            tcp("route: [{destination: {host: db}, headers: {}}]"),
            "spec.tcp[0].route[0].headers",
            Some(0),
        ),
        (
            tcp("route: [{destination: {host: nobody}}]"),
            "spec.tcp[0].route[0].destination.host",
            Some(1),
        ),
    ];
    for (written, field, kept) in cases {
        let (route, fields) = virtual_service(&format!("hosts: [db], {written}"));
        assert_eq!(fields, [field], "{written}");
        assert_eq!(
            route.map(|route| route.rules[0].backends.len()),
            kept,
            "{written}"
        );
    }
    let (route, fields) = virtual_service(&format!("tcp: [{{{ROUTE}}}], tls: []"));
    assert_eq!(
        (route, fields),
        (None, vec!["spec.tcp".to_owned()]),
        "nobody can delegate to it"
    );
}
