//! Nodes: the machines that pods run on, and the addresses from which their kubelets probe.

use std::net::IpAddr;
use std::sync::Arc;

use crate::mesh::facts::ObjectMeta;

/// A Node as the mesh sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`, as `spec.nodeName` of its pods says it.
    pub name: Arc<str>,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// `status.addresses` of the types `InternalIP` and `ExternalIP`.
    pub addrs: Vec<IpAddr>,
}
