//! Whose address is the node's own, and what that opens.

use super::*;
use crate::mesh::node::Node;

fn node(name: &str, addrs: &[&str]) -> Node {
    Node {
        name: name.into(),
        meta: meta(&format!("Node {name}"), 0),
        addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
        locality: Locality::default(),
    }
}

/// A pod of node-a with a probe on 8080.
fn probed() -> Facts {
    let web = Workload {
        probe_ports: std::collections::BTreeSet::from([8080]).into(),
        ..placed("web", "10.0.0.1")
    };
    Facts {
        workloads: vec![web.into(), placed("neighbour", "10.0.0.2").into()],
        nodes: vec![
            node("node-a", &["192.0.2.1", "fd00::1", "10.0.0.2"]),
            node("node-b", &["192.0.2.2"]),
        ],
        ..Facts::default()
    }
}

#[test]
fn only_addresses_of_this_node_that_no_pod_has_are_its_own() {
    let (snapshot, rejections) = build(&probed());
    assert_eq!(rejections, []);
    for (addr, is_own) in [
        ("192.0.2.1", true),
        ("::ffff:192.0.2.1", true),
        ("fd00::1", true),
        ("192.0.2.2", false),
        // A Node object must not make a pod pass for its kubelet.
        ("10.0.0.2", false),
        ("10.0.0.1", false),
        ("127.0.0.1", false),
    ] {
        assert_eq!(snapshot.is_own_node(addr.parse().unwrap()), is_own, "{addr}");
    }
}

#[test]
fn a_probe_comes_from_the_own_node_to_a_port_that_the_pod_names() {
    let (snapshot, _) = build(&probed());
    let web = snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap();
    let neighbour = snapshot.workload_at("10.0.0.2".parse().unwrap()).unwrap();
    for (to, from, port, is_probe) in [
        (web, "192.0.2.1", 8080, true),
        (web, "192.0.2.1", 8081, false),
        (web, "192.0.2.2", 8080, false),
        (web, "10.0.0.2", 8080, false),
        (neighbour, "192.0.2.1", 8080, false),
    ] {
        let found = snapshot.is_probe(to, from.parse().unwrap(), port);
        assert_eq!(found, is_probe, "{from} to {}:{port}", to.pod_name);
    }
}

#[test]
fn a_node_that_is_gone_has_no_addresses() {
    let (before, _) = build(&probed());
    let facts = Facts {
        nodes: Vec::new(),
        ..probed()
    };
    let (after, _) = Snapshot::build(&facts, &settings(), Some(&before));
    assert!(!after.is_own_node("192.0.2.1".parse().unwrap()));
}
