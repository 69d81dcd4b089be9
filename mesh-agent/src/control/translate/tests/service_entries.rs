//! ServiceEntries: servers that the cluster's objects do not know.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{named, read};
use crate::control::Reading;
use crate::mesh::backend_tls::PeerName;
use crate::mesh::route::BackendTarget;
use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::traffic::HostPattern;

fn manifest(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{{spec}}}}}\n"
    )
}

fn reading(spec: &str) -> Reading {
    read(&manifest("e", spec))
}

fn fields(reading: &Reading) -> Vec<&str> {
    let mut fields: Vec<_> = named(reading).into_iter().map(|(_, field)| field).collect();
    fields.sort_unstable();
    fields
}

#[test]
fn listed_endpoints_stand_behind_every_host() {
    let reading = reading(
        "hosts: [API.example.com, b.example.com], location: MESH_EXTERNAL, resolution: STATIC,
         ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: web, protocol: HTTP, targetPort: 8080},
                 {number: 53, name: dns, protocol: UDP}],
         endpoints: [{address: 192.0.2.1, weight: 3, labels: {version: v1}, locality: r/z/s},
                     {address: 192.0.2.2, ports: {tls: 8443}}]",
    );
    assert_eq!(reading.rejections, []);
    let facts = &reading.facts;
    let names: Vec<_> = facts.services.iter().map(|one| one.name.host()).collect();
    assert_eq!(names, ["api.example.com", "b.example.com"]);
    assert_eq!(facts.services[0].name.namespace.as_ref(), "shop");
    let ports: Vec<_> = facts.services[0]
        .ports
        .iter()
        .map(|one| (one.port, one.protocol))
        .collect();
    assert_eq!(ports, [(443, AppProtocol::Tcp), (80, AppProtocol::Http)]);
    let of_first = facts
        .endpoints
        .iter()
        .filter(|one| one.service == facts.services[0].name);
    let endpoints: Vec<_> = of_first
        .map(|one| (&*one.port_name, one.addr.to_string(), one.weight))
        .collect();
    let expected = [
        ("tls", "192.0.2.1:443", 3),
        ("web", "192.0.2.1:8080", 3),
        ("tls", "192.0.2.2:8443", 1),
        ("web", "192.0.2.2:8080", 1),
    ];
    assert_eq!(
        endpoints,
        expected.map(|(port, addr, weight)| (port, addr.to_owned(), weight))
    );
    assert_eq!(facts.endpoints.len(), 8);
    assert_eq!(facts.endpoints[0].labels["version"], "v1");
    let place = &facts.endpoints[0].place;
    assert_eq!(
        (place.region.as_deref(), place.zone.as_deref()),
        (Some("r"), Some("z"))
    );
}

#[test]
fn what_is_dialled_is_its_own_endpoint_where_nothing_is_resolved() {
    for resolution in ["", "resolution: NONE,"] {
        let reading = reading(&format!(
            "hosts: [api.example.com], {resolution} addresses: [192.0.2.1, 192.0.2.2], ports: [{{number: 443}}]"
        ));
        assert_eq!(reading.rejections, []);
        let service = &reading.facts.services[0];
        assert!(service.traffic.keeps_dialled);
        assert_eq!(service.vips.len(), 2);
        let endpoints: Vec<_> = reading
            .facts
            .endpoints
            .iter()
            .map(|one| one.addr.to_string())
            .collect();
        assert_eq!(endpoints, ["192.0.2.1:443", "192.0.2.2:443"]);
    }
}

#[test]
fn hosts_without_an_address_get_one_each_that_stays() {
    let entry = |count: usize| {
        let hosts: Vec<_> = (0..count).map(|index| format!("h{index}.example.com")).collect();
        reading(&format!(
            "hosts: [{}], resolution: STATIC, ports: [{{number: 80}}], endpoints: [{{address: 192.0.2.1}}]",
            hosts.join(", ")
        ))
    };
    let addresses = |count| -> Vec<IpAddr> {
        let services = entry(count).facts.services;
        services.iter().flat_map(|one| one.vips.clone()).collect()
    };
    let all = addresses(300);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 300, "each its own");
    assert!(all.iter().all(|addr| addr.to_string().starts_with("240.240.")));
    assert_eq!(addresses(300), all);
    assert_eq!(addresses(1), all[..1]);
}

#[test]
fn what_has_no_effect_is_named() {
    let tail = "ports: [{number: 80}], endpoints: [{address: 192.0.2.1}]";
    // What is named, and how many Services and endpoints there are still.
    let cases: [(String, &[&str], (usize, usize)); 16] = [
        (format!("hosts: [a.b], resolution: DNS, {tail}"), &["spec.resolution"], (0, 0)),
        (format!("hosts: [a.b], resolution: NONE, {tail}"), &["spec.addresses"], (0, 0)),
        (
            format!("hosts: [a.b], resolution: NONE, addresses: [192.0.2.9], {tail}"),
            &["spec.endpoints"],
            (1, 1),
        ),
        (format!("hosts: ['*.a.b', plain], resolution: STATIC, {tail}"), &["spec.hosts[0]", "spec.hosts[1]"], (0, 0)),
        (
            format!("hosts: [a.b, c.d], addresses: [192.0.2.9], resolution: STATIC, {tail}"),
            &["spec.hosts[1]"],
            (2, 2),
        ),
        (
            format!("hosts: [a.b], addresses: [192.0.2.0/24], resolution: STATIC, {tail}"),
            &["spec.addresses[0]"],
            (0, 0),
        ),
        (
            "hosts: [a.b], resolution: STATIC, ports: [{number: 80}], endpoints: [{address: c.d}, {address: 192.0.2.1}]"
                .to_owned(),
            &["spec.endpoints[0].address"],
            (1, 1),
        ),
        (
            "hosts: [a.b], resolution: STATIC, workloadSelector: {}, ports: [{number: 80}]".to_owned(),
            &["spec.workloadSelector"],
            (0, 0),
        ),
        (
            format!("hosts: [a.b], resolution: STATIC, workloadSelector: {{labels: {{a: b}}}}, {tail}"),
            &["spec.workloadSelector"],
            (0, 0),
        ),
        (
            "hosts: [a.b], resolution: NONE, addresses: [192.0.2.9], workloadSelector: {labels: {a: b}}, ports: [{number: 80}]"
                .to_owned(),
            &["spec.workloadSelector"],
            (1, 1),
        ),
        (
            format!("hosts: [a.b], resolution: STATIC, subjectAltNames: [a.b, '*.b'], {tail}"),
            &["spec.subjectAltNames[1]"],
            (0, 0),
        ),
        (
            "hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {a: b}, colour: c}, ports: [{number: 80}]".to_owned(),
            &["spec.workloadSelector.colour"],
            (0, 0),
        ),
        (
            "hosts: [a.b], resolution: STATIC, ports: [{number: 80}], endpoints: [{address: 192.0.2.1, network: n, \
             serviceAccount: s}]"
                .to_owned(),
            &["spec.endpoints[0].network", "spec.endpoints[0].serviceAccount"],
            (1, 1),
        ),
        (format!("hosts: [a.b], exportTo: [., A], resolution: STATIC, {tail}"), &["spec.exportTo"], (1, 1)),
        (format!("hosts: [a.b], location: MOON, resolution: STATIC, {tail}"), &["spec.location"], (1, 1)),
        ("hosts: [a.b], resolution: STATIC, ports: [{number: 0}]".to_owned(), &["spec.ports[0].number"], (0, 0)),
    ];
    for (spec, expected, kept) in cases {
        let reading = reading(&spec);
        assert_eq!(fields(&reading), expected, "{spec}");
        let counts = (reading.facts.services.len(), reading.facts.endpoints.len());
        assert_eq!(counts, kept, "{spec}");
    }
}

#[test]
fn pods_are_selected_by_labels_and_listen_where_the_ports_say() {
    let reading = reading(
        "hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {app: till}}, subjectAltNames: [A.b, 'spiffe://c/d'], \
         ports: [{number: 80, name: http, targetPort: 8080}, {number: 81, name: more}]",
    );
    assert_eq!(reading.rejections, []);
    let traffic = &reading.facts.services[0].traffic;
    let selector = traffic.selects.as_deref().unwrap();
    assert_eq!(selector.labels, [("app".to_owned(), "till".to_owned())].into());
    assert_eq!(selector.targets, [("http".into(), 8080), ("more".into(), 81)]);
    let names = [PeerName::Host("a.b".into()), PeerName::Uri("spiffe://c/d".into())];
    assert_eq!(*traffic.server_names, names);
}

#[test]
fn routes_and_rules_name_its_host() {
    let entry =
        "hosts: [api.example.com, example.org], resolution: STATIC, ports: [{number: 80}], endpoints: []";
    let other = |kind: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: r, namespace: shop}}, spec: \
             {{{spec}}}}}\n"
        )
    };
    let reading = read(&format!(
        "{}{}{}",
        manifest("e", entry),
        other(
            "VirtualService",
            "hosts: [API.example.com], http: [{route: [{destination: {host: example.org}}]}]"
        ),
        other(
            "DestinationRule",
            "host: api.example.com, trafficPolicy: {outlierDetection: {}}"
        ),
    ));
    assert_eq!(reading.rejections, []);
    let route = &reading.facts.http_routes[0];
    assert_eq!(
        route.parents[0].service,
        ServiceName::new("shop", "api.example.com")
    );
    assert_eq!(
        route.rules[0].backends()[0].target,
        BackendTarget::Service(ServiceName::new("shop", "example.org"), 80)
    );
    assert_eq!(
        reading.facts.destination_rules[0].host,
        HostPattern::Service(ServiceName::new("shop", "api.example.com"))
    );
}
