//! Nodes: the addresses that are a node's own.
//!
//! Place in the walk: tells a kubelet's probe from everybody else's plaintext. Must not know: pods.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::object::Object;
use super::service::own_addr;
use crate::mesh::facts::Rejection;
use crate::mesh::node::Node;
use crate::mesh::traffic::Locality;

/// An address that is wrong is left out alone: the others are the node's all the same.
pub(super) fn translate(object: &Object, rejections: &mut Vec<Rejection>) -> Result<Node, Rejection> {
    let node: api::Node = object.parse()?;
    let labels = node.metadata.labels.unwrap_or_default();
    let label = |name: &str| labels.get(name).map(|value| Arc::from(value.as_str()));
    let locality = Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        node: Some(Arc::clone(&object.name)),
    };
    let listed = node
        .status
        .and_then(|status| status.addresses)
        .unwrap_or_default();
    let mut addrs: Vec<IpAddr> = Vec::new();
    for (i, address) in listed.iter().enumerate() {
        // Host names lead nowhere here: what a packet shows is an address.
        if !matches!(address.type_.as_str(), "InternalIP" | "ExternalIP") {
            continue;
        }
        match own_addr(&address.address) {
            Ok(addr) => addrs.push(addr),
            Err(reason) => {
                rejections.push(object.reject(&format!("status.addresses[{i}].address"), reason));
            }
        }
    }
    Ok(Node {
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        addrs,
        locality,
    })
}
