//! Everything a source has learned, in one value, and what had to be left out.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::mesh::backend_tls::BackendTlsPolicy;
use crate::mesh::mesh_config::MeshConfig;
use crate::mesh::node::Node;
use crate::mesh::policy::PeerAuthentication;
use crate::mesh::policy::authorization::AuthorizationPolicy;
use crate::mesh::policy::rate_limit::RateLimitPolicy;
use crate::mesh::policy::request_authentication::RequestAuthentication;
use crate::mesh::route::{HttpRoute, StreamRoute};
use crate::mesh::service::{Endpoint, Service};
use crate::mesh::shared::Shared;
use crate::mesh::slice::EndpointSlice;
use crate::mesh::traffic::{BackendTrafficPolicy, DestinationRule};
use crate::mesh::workload::Workload;

/// All facts at one moment; the order within a list carries no meaning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Pods of every node.
    pub workloads: Vec<Shared<Workload>>,
    /// Namespaces whose pods take part, unless they opt out.
    pub meshed_namespaces: BTreeSet<Arc<str>>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Services with TCP ports.
    pub services: Vec<Shared<Service>>,
    /// EndpointSlices that belong to Services.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Endpoints that no slice holds, as ServiceEntries declare them.
    pub endpoints: Vec<Endpoint>,
    /// HTTPRoutes that attach to Services.
    pub http_routes: Vec<HttpRoute>,
    /// Routes of connections that attach to Services.
    pub stream_routes: Vec<StreamRoute>,
    /// PeerAuthentication policies.
    pub peer_authentications: Vec<PeerAuthentication>,
    /// AuthorizationPolicies.
    pub authorization_policies: Vec<AuthorizationPolicy>,
    /// `RequestAuthentication` policies.
    pub request_authentications: Vec<RequestAuthentication>,
    /// How many requests workloads take.
    pub rate_limit_policies: Vec<RateLimitPolicy>,
    /// `ConfigMaps` named `istio`, of any namespace.
    pub mesh_configs: Vec<MeshConfig>,
    /// Rules of how traffic to Services is spread.
    pub destination_rules: Vec<DestinationRule>,
    /// Gateway API's policies of traffic to Services.
    pub backend_policies: Vec<BackendTrafficPolicy>,
    /// Gateway API's policies of the TLS that backends speak.
    pub backend_tls_policies: Vec<BackendTlsPolicy>,
}

/// Where a fact was read, what it is called there, and since when it exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ObjectMeta {
    /// A file path, or `api` for an API server.
    pub origin: Arc<str>,
    /// `Kind NAMESPACE/NAME`.
    pub object: Arc<str>,
    /// `metadata.creationTimestamp`; absent in manifests that no API server has stored.
    pub created: Option<SystemTime>,
}

impl ObjectMeta {
    /// A rejection of this object, or of one field of it.
    pub fn reject(&self, field: &str, reason: impl Into<String>) -> Rejection {
        Rejection {
            origin: self.origin.as_ref().to_owned(),
            object: self.object.as_ref().to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    /// Sorts the elder first, as Gateway API and Istio settle contradictions; objects without a creation time
    /// come last, and name and origin decide between equals.
    pub fn seniority(&self) -> Seniority<'_> {
        Seniority {
            is_undated: self.created.is_none(),
            created: self.created,
            object: &self.object,
            origin: &self.origin,
        }
    }
}

/// The rank of an object among others that contradict it; the smaller wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority<'a> {
    is_undated: bool,
    created: Option<SystemTime>,
    object: &'a str,
    origin: &'a str,
}

/// An object, or a part of one, that was left out; everything else goes on serving.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejection {
    /// Where it was read: a file path, or `api` for an API server.
    pub origin: String,
    /// `Kind NAMESPACE/NAME`, as far as it could be read.
    pub object: String,
    /// Path of the field, for instance `spec.rules[0].matches[1].path.value`; empty for the whole object.
    pub field: String,
    /// What is wrong and the way out.
    pub reason: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.object)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}
