//! The certificate authority as a service: signs for the workloads of a node what that node's agent asks for.
//!
//! Place in the walk: none; `mesh-agent ca` runs it in a process of its own, and agents ask it through `identity`.
//! Must not know: where pods are learned from, or how a caller's token came to be.

mod keyring;
mod limits;
mod private;
mod refusal;
mod server;
mod service;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt::{self, Debug};
use std::sync::Arc;

use futures_util::future::BoxFuture;

pub use self::keyring::{Keyring, KeyringError, KeyringPlace, Keys};
pub use self::private::ReadableByOthers;
pub use self::refusal::Refusal;
pub use self::server::CaServer;
pub use self::service::{CaService, CaServiceSettings};
pub use self::tokens::{NodeTokens, TokensError};
use crate::mesh::identity::SpiffeId;

/// A node, as `spec.nodeName` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

/// Says whose agent a caller is. For a cluster: a `TokenReview`, and the node that the reviewed pod runs on.
pub trait Authenticator: Send + Sync + Debug {
    /// The node whose agent holds `token`; an error is told to the caller as unauthenticated and nothing more.
    ///
    /// Called once a request, several at once; bounded by the request's deadline and cancel-safe.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<NodeName, NotAuthenticated>>;
}

/// Says which workloads run where.
pub trait NodePods: Send + Sync + Debug {
    /// Whether a pod of the mesh with this identity runs on `node`. Called once a request; must not block.
    fn runs(&self, node: &NodeName, identity: &SpiffeId) -> bool;
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotAuthenticated {
    /// No node has this token.
    #[error("no node has this token")]
    Unknown,
    /// Whoever could tell did not answer.
    #[error("tokens cannot be checked now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl NodeName {
    /// Wraps a name as manifests and token files write it.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
