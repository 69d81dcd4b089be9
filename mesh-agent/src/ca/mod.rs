//! The certificate authority as a service: signs for the workloads of a node what that node's agent asks for.
//!
//! Place in the walk: none; `mesh-agent ca` runs it in a process of its own, and agents ask it through `identity`.
//! Must not know: where pods are learned from, or how a caller's token came to be.

pub mod election;
mod key_files;
mod keyring;
pub mod kubernetes;
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

pub use self::key_files::{KeyFiles, SecretFiles};
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

/// Says whose agent a caller is: by token files of nodes, or in a cluster by its API server.
pub trait Authenticator: Send + Sync + Debug {
    /// The node whose agent holds `token`. An error is told to the caller, who knows the token anyway.
    ///
    /// Called once a request, several at once; bounded by the request's deadline and cancel-safe.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<NodeName, NotAuthenticated>>;
}

/// Says which workloads run where.
pub trait NodePods: Send + Sync + Debug {
    /// Whether a pod of the mesh with this identity runs on `node`. Called once a request; must not block. An error before
    /// pods were learned at all.
    fn runs(&self, node: &NodeName, identity: &SpiffeId) -> Result<bool, PodsUnknown>;
}

/// Pods were not learned yet, so that nobody can be told anything of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not known yet which pods run where")]
pub struct PodsUnknown;

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotAuthenticated {
    /// No node has this token.
    #[error("no node has this token")]
    Unknown,
    /// The API server knows the token, or not, and it is no agent's.
    #[error(transparent)]
    Rejected(#[from] kubernetes::TokenFault),
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
