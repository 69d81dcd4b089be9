//! Each thing that is wrong is named by object and field, and spoils nothing else.

use super::{SHOP, named, of_slices, read};
use crate::mesh::policy::MtlsMode;

/// (apiVersion, kind, the rest of the manifest in flow style, the fields that are named, whether the object is kept)
const WRONG: &[(&str, &str, &str, &[&str], bool)] = &[
    (
        "v1",
        "Pod",
        "metadata: {name: p}, spec: {containers: 5}",
        &["spec.containers"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p}, spec: {nodeName: [a]}",
        &["spec.nodeName"],
        false,
    ),
    ("v1", "Pod", "metadata: {}", &["metadata.name"], false),
    ("v1", "Pod", "metadata: {name: UPPER}", &["metadata.name"], false),
    (
        "v1",
        "Pod",
        "metadata: {name: p, namespace: 'a b'}",
        &["metadata.namespace"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p, creationTimestamp: soon}",
        &["metadata.creationTimestamp"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p, annotations: {mesh-agent.dev/fail-mode: ajar}}",
        &["metadata.annotations[mesh-agent.dev/fail-mode]"],
        true,
    ),
    ("v2", "Pod", "metadata: {name: p}", &["apiVersion"], false),
    (
        "v1",
        "Pod",
        "metadata: {name: p}, status: {podIP: here}",
        &["status.podIP"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p}, status: {podIPs: [{ip: 127.0.0.1}]}",
        &["status.podIPs[0].ip"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p}, status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}",
        &["status.podIPs[1].ip"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p}, spec: {containers: [], serviceAccountName: 'a/b'}",
        &["spec.serviceAccountName"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p, annotations: {mesh-agent.dev/netns: /run/netns/p}}",
        &["metadata.annotations[mesh-agent.dev/cgroup]"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p, annotations: {mesh-agent.dev/cgroup: /p}}",
        &["metadata.annotations[mesh-agent.dev/netns]"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p, annotations: {mesh-agent.dev/netns: p, mesh-agent.dev/cgroup: /p}}",
        &["metadata.annotations[mesh-agent.dev/netns]"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p, annotations: {mesh-agent.dev/netns: /p, mesh-agent.dev/cgroup: /a/../b}}",
        &["metadata.annotations[mesh-agent.dev/cgroup]"],
        false,
    ),
    (
        "v1",
        "Pod",
        "metadata: {name: p, labels: {mesh-agent.dev/dataplane: 'true'}}",
        &["metadata.labels[mesh-agent.dev/dataplane]"],
        true,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {clusterIP: nowhere}",
        &["spec.clusterIP"],
        false,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {clusterIPs: [10.0.0.1, '::']}",
        &["spec.clusterIPs[1]"],
        false,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {ports: [{port: 0}]}",
        &["spec.ports[0].port"],
        false,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {ports: [{port: 80}, {port: 70000}]}",
        &["spec.ports[1].port"],
        false,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {ports: [{port: http}]}",
        &["spec.ports[0].port"],
        false,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {sessionAffinity: Cookie}",
        &["spec.sessionAffinity"],
        true,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {internalTrafficPolicy: Near}",
        &["spec.internalTrafficPolicy"],
        true,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {trafficDistribution: PreferFar}",
        &["spec.trafficDistribution"],
        true,
    ),
    (
        "v1",
        "Service",
        "metadata: {name: s}, spec: {sessionAffinity: ClientIP, internalTrafficPolicy: Local, trafficDistribution: PreferClose}",
        &[],
        true,
    ),
    (
        "discovery.k8s.io/v1beta1",
        "EndpointSlice",
        "metadata: {name: e}",
        &["apiVersion"],
        false,
    ),
    (
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "metadata: {name: e}, addressType: FQDN, endpoints: []",
        &["addressType"],
        false,
    ),
    (
        "networking.istio.io/v1",
        "DestinationRule",
        "metadata: {name: d}, spec: {}",
        &["spec"],
        false,
    ),
    (
        "networking.istio.io/v1",
        "DestinationRule",
        "metadata: {name: d}, spec: {host: 5}",
        &["spec.host"],
        false,
    ),
    (
        "networking.istio.io/v9",
        "DestinationRule",
        "metadata: {name: d}, spec: {host: a}",
        &["apiVersion"],
        false,
    ),
    (
        "security.istio.io/v1",
        "PeerAuthentication",
        "metadata: {name: a}, spec: {mtls: {mode: NEVER}}",
        &["spec.mtls.mode"],
        true,
    ),
    (
        "security.istio.io/v1",
        "PeerAuthentication",
        "metadata: {name: a}, spec: {selector: {matchExpressions: []}}",
        &["spec.selector.matchExpressions"],
        true,
    ),
    (
        "security.istio.io/v1",
        "PeerAuthentication",
        "metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
        &["spec.portLevelMtls[http]"],
        true,
    ),
    (
        "security.istio.io/v1",
        "PeerAuthentication",
        "metadata: {name: a}, spec: {portLevelMtls: {80: {mode: STRICT}}}",
        &["spec.portLevelMtls"],
        true,
    ),
    (
        "security.istio.io/v1",
        "RequestAuthentication",
        "metadata: {name: a}, spec: {jwtRule: []}",
        &["spec.jwtRule"],
        true,
    ),
    ("example.com/v1", "Pod", "metadata: {name: p}", &[], false),
];

#[test]
fn what_is_wrong_is_named_by_object_and_field_and_the_rest_is_read() {
    let shop = read(SHOP).facts;
    let count = |facts: &crate::mesh::facts::Facts| {
        facts.workloads.len()
            + facts.services.len()
            + facts.slices.iter().flat_map(|slice| slice.endpoints()).count()
            + facts.peer_authentications.len()
            + facts.request_authentications.len()
    };
    for (api_version, kind, rest, fields, is_kept) in WRONG {
        let reading = read(&format!(
            "{{apiVersion: {api_version}, kind: {kind}, {rest}}}\n---\n{SHOP}"
        ));
        let found = named(&reading);
        assert_eq!(
            found.iter().map(|(_, field)| *field).collect::<Vec<_>>(),
            *fields,
            "{rest}"
        );
        assert!(
            found
                .iter()
                .all(|(object, _)| object.starts_with(kind) || object.starts_with("document")),
            "{found:?}"
        );
        assert_eq!(
            count(&reading.facts) - count(&shop),
            usize::from(*is_kept),
            "{rest}"
        );
    }
}

#[test]
fn what_is_no_object_is_named_by_its_place() {
    for (text, field) in [
        ("5", ""),
        ("[a]", ""),
        ("{}", ""),
        ("{kind: Pod}", ""),
        ("{apiVersion: 5, kind: Pod}", "apiVersion"),
    ] {
        let reading = read(&format!("{SHOP}---\n{text}\n"));
        let lines = SHOP.lines().count();
        let place = format!("document 6 (line {})", lines + 1);
        assert_eq!(named(&reading), [(place.as_str(), field)], "{text}");
    }
}

#[test]
fn a_wrong_endpoint_or_port_is_left_out_for_itself() {
    let reading = read(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e, namespace: n, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: good, port: 80}, {name: none}, {name: large, port: 70000}]
endpoints:
- {addresses: [10.0.0.1]}
- {addresses: []}
- {addresses: [host]}
- {addresses: ['fd00::1']}
",
    );
    assert_eq!(of_slices(&reading).len(), 1);
    let fields: Vec<_> = named(&reading).into_iter().map(|(_, field)| field).collect();
    assert_eq!(
        fields,
        [
            "ports[1].port",
            "ports[2].port",
            "endpoints[1].addresses[0]",
            "endpoints[2].addresses[0]",
            "endpoints[3].addresses[0]",
        ],
    );
}

#[test]
fn a_peer_authentication_is_read_by_workload_and_port() {
    let reading = read(
        "
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: a, namespace: n}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
  portLevelMtls: {8080: {mode: PERMISSIVE}, '9090': {mode: UNSET}, 9091: {mode: DISABLE}}
",
    );
    assert_eq!(reading.rejections, []);
    let policy = &reading.facts.peer_authentications[0];
    assert_eq!(policy.mode, Some(MtlsMode::Strict));
    assert_eq!(policy.selector["app"], "web");
    assert_eq!(
        [8080, 9090, 9091].map(|port| policy.port_modes[&port]),
        [Some(MtlsMode::Permissive), None, Some(MtlsMode::Disable)]
    );
}
