//! Claims about the manifests of a completed cluster.

use super::*;
use crate::input::{LabFile, ManifestFile, parse};

const MANIFESTS: &str = "
kind: Pod
metadata: { name: given, namespace: shop, labels: { app: web } }
spec: { nodeName: a, containers: [{ ports: [{ name: http, containerPort: 8080 }] }] }
status: { podIP: 10.244.1.10 }
---
kind: Pod
metadata: { name: free, namespace: shop, labels: { app: web } }
spec: { nodeName: a, containers: [{ ports: [{ name: http, containerPort: 9090 }] }] }
---
kind: Pod
metadata: { name: other, namespace: else, labels: { app: web } }
spec: { nodeName: b }
---
kind: Service
metadata: { name: web, namespace: shop }
spec: { ipFamilyPolicy: PreferDualStack, selector: { app: web }, ports: [{ name: http, port: 80, targetPort: http }] }
---
kind: Service
metadata: { name: headless, namespace: shop }
spec: { clusterIP: None, selector: { app: web }, ports: [{ port: 80 }] }
";

fn cluster() -> Cluster {
    let input = Input {
        dir: PathBuf::new(),
        lab: LabFile {
            api_version: None,
            kind: None,
            nodes: vec!["a".to_owned(), "b".to_owned()],
            agent: Vec::new(),
            pods: Vec::new(),
        },
        manifests: vec![ManifestFile {
            name: "all.yaml".to_owned(),
            content: parse(MANIFESTS.to_owned()),
        }],
    };
    complete(&input, &Site::named("unit-lab").unwrap(), || Ok("uid".to_owned())).unwrap()
}

fn slices_of(cluster: &Cluster, service: &str) -> Vec<Value> {
    let name = format!("endpointslices-shop-{service}.yaml");
    let (_, text) = cluster.files.iter().find(|(file, _)| *file == name).unwrap();
    let Content::Documents(slices) = parse(text.clone()) else {
        panic!("malformed")
    };
    slices
}

#[test]
fn an_address_that_a_manifest_gives_is_kept_and_not_given_again() {
    let cluster = cluster();
    let address = |name: &str| cluster.pods[&name.parse().unwrap()].ipv4.to_string();
    assert_eq!(address("shop/given"), "10.244.1.10");
    assert_eq!(address("else/other"), "10.244.2.10");
    assert!(address("shop/free").starts_with("10.244.1.") && address("shop/free") != "10.244.1.10");
}

#[test]
fn a_dual_stack_service_has_both_addresses_and_a_headless_one_none() {
    let cluster = cluster();
    assert_eq!(cluster.services[0].cluster_ips.len(), 2);
    assert!(cluster.services[1].cluster_ips.is_empty());
}

#[test]
fn pods_with_other_numbers_for_a_named_port_get_slices_of_their_own() {
    let slices = slices_of(&cluster(), "web");
    let ports: Vec<_> = slices
        .iter()
        .filter_map(|slice| slice.pointer("/ports/0/port")?.as_u64())
        .collect();
    assert_eq!(ports, [8080, 9090, 8080, 9090]);
}

#[test]
fn each_node_is_declared_with_its_addresses_on_the_wire_only() {
    let cluster = cluster();
    let (_, text) = cluster
        .files
        .iter()
        .find(|(file, _)| file == nodes::FILE)
        .unwrap();
    assert_eq!(text.matches("kind: Node").count(), 2);
    assert!(
        text.contains("172.31.0.1") && text.contains("fd00:172::2") && !text.contains("10.244"),
        "{text}"
    );
}

#[test]
fn a_slice_holds_no_pod_of_another_namespace() {
    let slices = slices_of(&cluster(), "headless");
    assert_eq!(slices.len(), 1);
    assert_eq!(
        slices[0].pointer("/endpoints").unwrap().as_array().unwrap().len(),
        2
    );
}
