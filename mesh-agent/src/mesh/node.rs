//! Nodes: the machines that pods run on, the addresses from which their kubelets probe, and where
//! they stand.

use std::net::IpAddr;
use std::sync::Arc;

use crate::mesh::facts::ObjectMeta;
use crate::mesh::traffic::Locality;

/// A Node as the mesh sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`, as `spec.nodeName` of its pods says it.
    pub name: Arc<str>,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// `status.addresses` of the types `InternalIP` and `ExternalIP`.
    pub addrs: Vec<IpAddr>,
    /// From its labels `topology.kubernetes.io/region` and `zone`, and its name.
    pub locality: Locality,
}
