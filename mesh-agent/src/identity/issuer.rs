//! Who signs certificates.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::issue_failure::IssueFailure;
use super::spire::SpireError;
use super::svid::{InvalidSvid, Svid};
use super::{Federation, Roots, TlsError};
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

    /// The bundles of other trust domains, where the issuer knows some; a change reaches every live configuration. Called
    /// once; must not block.
    fn federation(&self) -> Option<watch::Receiver<Federation>> {
        None
    }

    /// How long an answer may be kept before asking again, where the issuer has news before half a life: for
    /// instance a file that somebody else renews.
    fn asked_again_within(&self) -> Option<Duration> {
        None
    }

    /// Certificates of one identity, from an issuer that pushes them; `issue` is not called then. Must not block.
    fn subscribe(&self, _identity: &SpiffeId) -> Option<Box<dyn Subscription>> {
        None
    }
}

/// The certificates of one identity as they are pushed. Dropped when the identity is no longer wanted.
///
/// Contract: one task calls both, in turns; what holds for [`Issuer::issue`] holds here.
pub trait Subscription: Send + Debug {
    /// The newest certificate: the one that was pushed, or else the answer to a question. Asked at half of its life
    /// too, so that a push which is lost does no harm. Cancel-safe: the next call begins anew.
    fn issue(&mut self) -> BoxFuture<'_, Result<Svid, IssueError>>;

    /// Returns when `issue` has something to say that it has not said yet, be it an error; never after an error that
    /// it has said, until it is asked again. Cancel-safe.
    fn superseded(&mut self) -> BoxFuture<'_, ()>;
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
    Tls(#[from] TlsError),
    /// The issuer did not answer in time.
    #[error("the issuer did not answer in time")]
    Timeout,
    /// SPIRE gave none.
    #[error("spire gave no certificate")]
    Spire(#[from] SpireError),
    /// The issuer could not be reached or refused.
    #[error("the issuer failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl IssueError {
    /// For metrics.
    pub fn failure(&self) -> IssueFailure {
        match self {
            Self::TrustDomain { .. } => IssueFailure::TrustDomain,
            Self::Sign(_) => IssueFailure::Sign,
            Self::Invalid(_) => IssueFailure::Malformed,
            Self::OtherIdentity(_) => IssueFailure::OtherIdentity,
            Self::Tls(_) => IssueFailure::Tls,
            Self::Timeout => IssueFailure::Timeout,
            Self::Spire(error) => error.failure(),
            Self::Failed(_) => IssueFailure::Failed,
        }
    }
}
