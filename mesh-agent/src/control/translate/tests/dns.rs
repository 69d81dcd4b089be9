//! Whose DNS is captured, and what DNS calls an endpoint.

use super::{named, of_slices, read, workload};

fn pod(annotations: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop, annotations: {{{annotations}}}}}}}"
    )
}

fn namespace(annotations: &str) -> String {
    format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, annotations: {{{annotations}}}}}}}")
}

#[test]
fn the_pods_annotation_wins_over_its_namespaces() {
    let [on, off, wrong] =
        ["true", "false", "yes"].map(|value| format!("mesh-agent.dev/dns-capture: '{value}'"));
    let field = "metadata.annotations[mesh-agent.dev/dns-capture]";
    for (of_namespace, of_pod, expected, rejected) in [
        ("", "", None, vec![]),
        ("", &*on, Some(true), vec![]),
        ("", &*off, Some(false), vec![]),
        (&*on, "", Some(true), vec![]),
        (&*on, &*off, Some(false), vec![]),
        (&*off, &*on, Some(true), vec![]),
        (&*on, &*wrong, Some(true), vec![("Pod shop/p", field)]),
        ("", &*wrong, None, vec![("Pod shop/p", field)]),
        (&*wrong, "", None, vec![("Namespace shop", field)]),
    ] {
        let reading = read(&format!("{}\n---\n{}", pod(of_pod), namespace(of_namespace)));
        assert_eq!(
            workload(&reading, "p").dns_capture,
            expected,
            "{of_namespace} {of_pod}"
        );
        assert_eq!(named(&reading), rejected, "{of_namespace} {of_pod}");
    }
}

#[test]
fn an_endpoint_keeps_the_hostname_that_its_slice_gives_it() {
    let reading = read(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {name: s, labels: {kubernetes.io/service-name: db}}, ports: [{port: 1}], \
         endpoints: [{addresses: [10.0.0.1], hostname: db-0}, {addresses: [10.0.0.2]}]}",
    );
    let endpoints = of_slices(&reading);
    let names: Vec<_> = endpoints
        .iter()
        .map(|endpoint| endpoint.hostname.as_deref())
        .collect();
    assert_eq!(names, [Some("db-0"), None]);
}
