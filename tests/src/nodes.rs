//! Node objects, as each node's kubelet and network plugin would report it.
//!
//! Pure. It must not know what anybody makes of a node's addresses.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::addresses::{fabric_ipv4, fabric_ipv6, node_index};
use crate::input::{Content, Input};
use crate::manifest::text_at;

/// The file of the Node objects.
pub const FILE: &str = "nodes.yaml";

/// A Node for each node of the lab that no manifest declares itself.
pub fn undeclared(input: &Input) -> Vec<Value> {
    let names = input.lab.nodes.iter().filter(|name| !is_declared(input, name));
    names
        .filter_map(|name| Some(node(name, node_index(input, name)?)))
        .collect()
}

/// The addresses of a node on the wire. Those on the bridge of its pods, which they see their kubelet come from, no Node
/// object has.
pub fn addresses(index: u8) -> [IpAddr; 2] {
    [fabric_ipv4(index).into(), fabric_ipv6(index).into()]
}

fn node(name: &str, index: u8) -> Value {
    let own = addresses(index).map(|address| json!({ "type": "InternalIP", "address": address }));
    let hostname = json!({ "type": "Hostname", "address": name });
    let addresses: Vec<_> = own.into_iter().chain([hostname]).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            // Each node is a zone of its own.
            "labels": { "topology.kubernetes.io/region": "lab", "topology.kubernetes.io/zone": name },
        },
        "status": { "addresses": addresses },
    })
}

fn is_declared(input: &Input, name: &str) -> bool {
    let documents = input.manifests.iter().filter_map(|file| match &file.content {
        Content::Documents(documents) => Some(documents),
        Content::Malformed(_) => None,
    });
    documents.flatten().any(|document| {
        text_at(document, "/kind") == Some("Node") && text_at(document, "/metadata/name") == Some(name)
    })
}
