//! What the translation promises, from manifests to facts.

mod authorization;
mod backend_tls;
mod backend_traffic_policy;
mod direct_responses;
mod dns;
mod exports;
mod external_auth;
mod fields;
mod health_check;
mod hostile;
mod nearness;
mod peer_authentication;
mod probes;
mod request_authentication;
mod resilience;
mod route_filters;
mod routes;
mod service_entries;
mod session_persistence;
mod stream_routes;
mod templates;
mod traffic;
mod traffic_rejections;
mod virtual_service;

use super::*;
use crate::control::manifest::documents;
use crate::mesh::facts::Rejection;
use crate::mesh::service::{AppProtocol, Endpoint};
use crate::mesh::workload::{Membership, Workload};

/// Translates manifests; their syntax must be right.
fn read(manifests: &str) -> Reading {
    let (documents, rejections) = documents("f.yaml", manifests, false);
    assert_eq!(rejections, []);
    translate(documents, "cluster.local")
}

/// Object and field of each rejection.
fn named(reading: &Reading) -> Vec<(&str, &str)> {
    let named = |rejection| {
        let Rejection { object, field, .. }: &Rejection = rejection;
        (object.as_str(), field.as_str())
    };
    reading.rejections.iter().map(named).collect()
}

/// The endpoints of all slices.
fn of_slices(reading: &Reading) -> Vec<Endpoint> {
    let slices = reading.facts.slices.iter();
    slices.flat_map(|slice| slice.endpoints()).collect()
}

fn workload<'r>(reading: &'r Reading, name: &str) -> &'r Workload {
    reading
        .facts
        .workloads
        .iter()
        .find(|workload| workload.pod_name.as_ref() == name)
        .unwrap()
}

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh-agent.dev/dataplane: enabled}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-7d4b9c6f5d-abcde
  namespace: shop
  uid: 0b6c5a3e
  creationTimestamp: '2026-01-02T03:04:05Z'
  labels: {app: web, version: v1, pod-template-hash: 7d4b9c6f5d}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-7d4b9c6f5d, uid: u, controller: true}]
  annotations: {mesh-agent.dev/netns: /run/netns/web, mesh-agent.dev/cgroup: /sys/fs/cgroup/web}
spec:
  nodeName: node-a
  serviceAccountName: web
  containers: [{name: c, ports: [{name: http, containerPort: 8080}, {containerPort: 9}]}]
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd96::1']
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP}
  - {name: db, port: 3306}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, uid: 0b6c5a3e}}
- {addresses: [10.0.0.2, 10.0.0.3], conditions: {ready: false}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
";

#[test]
fn a_shop_becomes_facts() {
    let reading = read(SHOP);
    assert_eq!(reading.rejections, []);
    assert_eq!(reading.skipped, 1);
    let web = workload(&reading, "web-7d4b9c6f5d-abcde");
    assert_eq!(web.uid.to_string(), "0b6c5a3e");
    assert_eq!(web.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(
        web.addrs,
        [
            "10.0.0.1".parse::<std::net::IpAddr>().unwrap(),
            "fd00::1".parse().unwrap()
        ]
    );
    assert_eq!(
        (web.node.as_ref(), web.naming.workload.as_ref()),
        ("node-a", "web")
    );
    assert_eq!(*web.ports, [("http".to_owned(), 8080)]);
    assert!(web.is_enrolled());
    assert_eq!(
        web.placement.as_ref().unwrap().netns.to_str(),
        Some("/run/netns/web")
    );
    assert_eq!(web.meta.origin.as_ref(), "f.yaml");
    let created = web
        .meta
        .created
        .unwrap()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(created.as_secs(), 1_767_323_045);

    let service = &reading.facts.services[0];
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| (port.name.as_ref(), port.port, port.protocol))
        .collect();
    assert_eq!(
        ports,
        [("http", 80, AppProtocol::Http), ("db", 3306, AppProtocol::Tcp)]
    );
    assert_eq!(service.vips.len(), 2);

    let endpoints = of_slices(&reading);
    let addrs = endpoints.iter().map(|endpoint| endpoint.addr.to_string());
    assert_eq!(addrs.collect::<Vec<_>>(), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(endpoints[0].workload.as_ref(), Some(&web.uid));
    assert_eq!(endpoints[1].workload, None);
}

#[test]
fn a_pod_joins_by_its_namespace_and_leaves_by_its_label() {
    use Membership::{Enrolled, Outside};
    for (namespace_label, pod_part, expected) in [
        ("enabled", "metadata: {name: p, namespace: n}", Enrolled),
        (
            "enabled",
            "metadata: {name: p, namespace: n, labels: {mesh-agent.dev/dataplane: disabled}}",
            Outside,
        ),
        (
            "enabled",
            "metadata: {name: p, namespace: n, labels: {mesh-agent.dev/dataplane: enabled}}",
            Enrolled,
        ),
        (
            "enabled",
            "metadata: {name: p, namespace: n, annotations: {mesh-agent.dev/dataplane: disabled}}",
            Enrolled,
        ),
        (
            "enabled",
            "metadata: {name: p, namespace: n}\nspec: {hostNetwork: true, containers: []}",
            Outside,
        ),
        ("disabled", "metadata: {name: p, namespace: n}", Outside),
        (
            "disabled",
            "metadata: {name: p, namespace: n, labels: {mesh-agent.dev/dataplane: enabled}}",
            Outside,
        ),
        ("enabled", "metadata: {name: p, namespace: other}", Outside),
    ] {
        // The namespace may come after its pods.
        let reading = read(&format!(
            "apiVersion: v1\nkind: Pod\n{pod_part}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n, \
             labels: {{mesh-agent.dev/dataplane: {namespace_label}}}}}\n"
        ));
        assert_eq!(reading.rejections, []);
        assert_eq!(
            workload(&reading, "p").membership,
            expected,
            "{namespace_label} {pod_part}"
        );
    }
}

#[test]
fn a_pod_that_has_ended_is_no_workload() {
    for (phase, count) in [("Pending", 1), ("Running", 1), ("Succeeded", 0), ("Failed", 0)] {
        let reading = read(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nstatus: {{phase: {phase}}}\n"
        ));
        assert_eq!(reading.facts.workloads.len(), count, "{phase}");
    }
}

#[test]
fn a_service_is_headless_or_an_alias_by_its_spec() {
    for (spec, expected) in [
        ("clusterIP: None, ports: [{port: 80}]", Some((0, true))),
        ("clusterIPs: [None], ports: [{port: 80}]", Some((0, true))),
        ("clusterIP: '', ports: [{port: 80}]", Some((0, false))),
        ("ports: [{port: 80}]", Some((0, false))),
        ("clusterIP: 10.96.0.1, ports: [{port: 80}]", Some((1, false))),
        ("type: ExternalName, externalName: example.com", None),
    ] {
        let reading = read(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{{spec}}}\n"
        ));
        assert_eq!(reading.rejections, []);
        let service = reading.facts.services.first();
        assert_eq!(
            service.map(|service| (service.vips.len(), service.is_headless)),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn the_same_object_in_two_places_counts_once() {
    let reading = read(&format!("{SHOP}---\n{SHOP}"));
    assert_eq!(reading.facts.services.len(), 1);
    assert!(named(&reading).iter().all(|(_, field)| *field == "metadata.name"));
    assert_eq!(named(&reading).len(), 4);
}
