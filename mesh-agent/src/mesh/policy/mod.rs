//! Policies of workloads in declared form.

pub mod authorization;
pub mod external;
pub mod rate_limit;
pub mod request_authentication;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::facts::ObjectMeta;

/// Istio's `PeerAuthentication` (security.istio.io/v1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// `metadata.namespace`; the root namespace's policy without selector is mesh-wide.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Where it was declared; the older of two of one level wins.
    pub meta: Arc<ObjectMeta>,
    /// `spec.selector.matchLabels`; empty means the whole namespace.
    pub selector: BTreeMap<String, String>,
    /// `spec.mtls.mode`; `None` (UNSET) inherits.
    pub mode: Option<MtlsMode>,
    /// `spec.portLevelMtls`: by the port of the workload, only with a selector; `None` (UNSET) inherits.
    pub port_modes: BTreeMap<u16, Option<MtlsMode>>,
}

/// What an enrolled workload accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Only mTLS of a workload of the mesh.
    Strict,
    /// mTLS and plaintext.
    Permissive,
    /// Plaintext only: what comes is the application's own bytes, and nobody proves who they are.
    Disable,
}
