//! Who signs certificates.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::Roots;
use super::svid::{InvalidSvid, Svid};
use crate::mesh::identity::SpiffeId;

/// Signs one certificate for one identity on request.
///
/// Contract: `issue` is called once for each identity when it appears and once for each renewal, from one task an
/// identity; several run at once. It may take long, and is dropped when it takes longer than the store waits, so
/// it must be cancel-safe. It must not block the thread for longer than a signature takes. `roots` is called once and
/// must not block; its value must verify what `issue` returned before.
pub trait Issuer: Send + Sync + Debug {
    /// A new key and its certificate. The store checks that it is for `identity`.
    fn issue<'a>(&'a self, identity: &'a SpiffeId) -> BoxFuture<'a, Result<Svid, IssueError>>;

    /// The certificates that peers' chains must end in; a change reaches every live configuration.
    fn roots(&self) -> watch::Receiver<Roots>;

    /// How long an answer may be kept before asking again, where the issuer has news before half a life: for
    /// instance a file that somebody else renews.
    fn asked_again_within(&self) -> Option<Duration> {
        None
    }
}

/// Why there is no certificate. Every kind is tried again.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The issuer does not sign for this trust domain.
    #[error("the issuer signs for trust domain {ours}, not for {wanted}")]
    TrustDomain {
        /// The issuer's.
        ours: Arc<str>,
        /// The one that was asked for.
        wanted: String,
    },
    /// Making or signing the certificate failed.
    #[error("cannot sign a certificate")]
    Sign(#[source] rcgen::Error),
    /// What was issued is not an X509-SVID of a workload.
    #[error("the issued certificate cannot be used")]
    Invalid(#[from] InvalidSvid),
    /// What was issued is for somebody else.
    #[error("the issued certificate is for {0}")]
    OtherIdentity(SpiffeId),
    /// The certificate does not fit its key, or no TLS can be made of it.
    #[error("the issued certificate cannot be used for tls")]
    Tls(#[from] super::TlsError),
    /// The issuer did not answer in time.
    #[error("the issuer did not answer in time")]
    Timeout,
    /// The issuer could not be reached or refused.
    #[error("the issuer failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}
