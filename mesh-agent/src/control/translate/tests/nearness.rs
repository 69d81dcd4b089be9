//! What Service, EndpointSlice and Node say of who is near and who stays where.

use super::*;
use crate::mesh::traffic::{BalancerKind, Nearest};

#[test]
fn a_service_says_how_near_and_how_sticky_it_is() {
    let of = |annotations: &str, spec: &str| {
        let reading = read(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s, annotations: {{{annotations}}}}}, spec: {{{spec}}}}}"
        ));
        let rejected = !reading.rejections.is_empty();
        (reading.facts.services[0].traffic.clone(), rejected)
    };
    let (traffic, _) = of(
        "mesh-agent.dev/load-balancer: PEAK_EWMA",
        "sessionAffinity: ClientIP, internalTrafficPolicy: Local, trafficDistribution: PreferSameNode",
    );
    assert!(traffic.has_affinity && traffic.is_local_only);
    assert_eq!(traffic.nearest, Some(Nearest::Node));
    assert_eq!(traffic.balancer, Some(BalancerKind::PeakEwma));
    for close in ["PreferClose", "PreferSameZone"] {
        let (traffic, _) = of("", &format!("trafficDistribution: {close}"));
        assert_eq!(traffic.nearest, Some(Nearest::Zone));
    }
    let (traffic, is_rejected) = of("mesh-agent.dev/load-balancer: BEST", "");
    assert!(is_rejected && traffic.balancer.is_none());
}

#[test]
fn slices_and_nodes_say_where_endpoints_are() {
    let reading = read(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e, namespace: n, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: a, port: 80}]
endpoints:
- {addresses: [10.0.0.1], zone: eu-a, nodeName: n1, hints: {forZones: [{name: eu-a}], forNodes: [{name: n1}]}}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-a}}
",
    );
    assert_eq!(reading.rejections, []);
    let place = &of_slices(&reading)[0].place;
    assert_eq!(
        (place.zone.as_deref(), place.node.as_deref()),
        (Some("eu-a"), Some("n1"))
    );
    assert_eq!((&*place.for_zones[0], &*place.for_nodes[0]), ("eu-a", "n1"));
    let locality = &reading.facts.nodes[0].locality;
    assert_eq!(
        (
            locality.region.as_deref(),
            locality.zone.as_deref(),
            locality.node.as_deref()
        ),
        (Some("eu"), Some("eu-a"), Some("n1"))
    );
}
