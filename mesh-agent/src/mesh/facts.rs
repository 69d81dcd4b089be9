//! Everything a source has learned, in one value, and what had to be left out.

use std::fmt;

use serde::Serialize;

use crate::mesh::policy::PeerAuthentication;
use crate::mesh::route::HttpRoute;
use crate::mesh::service::{Endpoint, Service};
use crate::mesh::workload::Workload;

/// All facts at one moment; the order within a list carries no meaning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Pods of every node.
    pub workloads: Vec<Workload>,
    /// Services with TCP ports.
    pub services: Vec<Service>,
    /// Endpoints of all slices.
    pub endpoints: Vec<Endpoint>,
    /// HTTPRoutes that attach to Services.
    pub http_routes: Vec<HttpRoute>,
    /// PeerAuthentication policies.
    pub peer_authentications: Vec<PeerAuthentication>,
}

/// An object, or a part of one, that was left out; everything else goes on serving.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
