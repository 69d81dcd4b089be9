//! Certificates from SPIRE, over the Delegated Identity API of the SPIRE agent on this node.
//!
//! Place in the walk: beside it; the store subscribes for each identity of the node. Must not know: how entries got into
//! SPIRE, or who else is told what it pushes.
//!
//! SPIRE makes the private keys and sends them over its admin socket. They are wiped like the agent's own, but for
//! the buffers into which the HTTP/2 library reads, which belong to it.

mod bundle;
mod error;
mod messages;
mod selector;
mod subscription;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};

pub use self::error::SpireError;
pub use self::selector::{InvalidSelectors, SelectorTemplates};

use self::bundle::BundleFollower;
use self::subscription::SpireSubscription;
use super::{Federation, IssueError, Issuer, Roots, Subscription, Svid};
use crate::lifecycle::Tasks;
use crate::mesh::identity::SpiffeId;

/// How SPIRE is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpireSettings {
    /// The admin socket of the SPIRE agent (`admin_socket_path`).
    pub socket: PathBuf,
    /// By what SPIRE finds the entry of an identity.
    pub selectors: SelectorTemplates,
    /// Whose bundle holds the roots of this mesh.
    pub trust_domain: String,
}

/// An [`Issuer`] that subscribes to SPIRE: a connection for each identity, and one for bundles.
pub struct SpireIssuer {
    settings: Arc<SpireSettings>,
    roots: watch::Receiver<Roots>,
    federation: watch::Receiver<Federation>,
    reached: Arc<Notify>,
}

impl SpireIssuer {
    /// Follows SPIRE's bundles in a task of `tasks`, reachable or not. Call it within a tokio runtime.
    pub fn start(settings: SpireSettings, tasks: &Tasks) -> Self {
        let settings = Arc::new(settings);
        let (sender, roots) = watch::channel(Roots::from([]));
        let (other_meshes, federation) = watch::channel(Federation::default());
        let reached = Arc::new(Notify::new());
        let follower = BundleFollower {
            settings: Arc::clone(&settings),
            roots: sender,
            federation: other_meshes,
            reached: Arc::clone(&reached),
        };
        tasks.spawn("spire-bundles", follower.run(tasks.stop()));
        Self {
            settings,
            roots,
            federation,
            reached,
        }
    }

    fn to(&self, identity: &SpiffeId) -> SpireSubscription {
        SpireSubscription::new(
            Arc::clone(&self.settings),
            identity.clone(),
            self.roots.clone(),
            Arc::clone(&self.reached),
        )
    }
}

impl Issuer for SpireIssuer {
    fn issue<'a>(&'a self, identity: &'a SpiffeId) -> BoxFuture<'a, Result<Svid, IssueError>> {
        Box::pin(async { self.to(identity).issue().await })
    }

    fn roots(&self) -> watch::Receiver<Roots> {
        self.roots.clone()
    }

    fn federation(&self) -> Option<watch::Receiver<Federation>> {
        Some(self.federation.clone())
    }

    fn subscribe(&self, identity: &SpiffeId) -> Option<Box<dyn Subscription>> {
        Some(Box::new(self.to(identity)))
    }
}

impl fmt::Debug for SpireIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpireIssuer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

async fn connect(path: &Path) -> Result<UnixStream, SpireError> {
    UnixStream::connect(path)
        .await
        .map_err(|source| SpireError::Unreachable {
            path: path.to_owned(),
            source,
        })
}

/// How long the bundle of the mesh's trust domain may come after the first certificate.
const BUNDLE_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
