//! A certificate authority inside the agent, for a single machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
#[cfg(test)]
use rcgen::CertificateParams;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::authority::{Authority, AuthorityError, make_root};
use super::root_file::{self, RootFileError};
#[cfg(test)]
use super::secret::SecretDer;
use super::secret::SecretKey;
use super::{IssueError, Issuer, Roots, Svid};
use crate::mesh::identity::SpiffeId;

/// Signs with a root that lies in a directory of this machine, made on the first start.
///
/// Agents that share the directory share the root.
pub struct EmbeddedCa {
    trust_domain: Arc<str>,
    ttl: Duration,
    roots: watch::Sender<Roots>,
    authority: Authority,
}

/// Why the embedded CA cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Certificates would expire faster than they can be renewed.
    #[error("certificates must live {MIN_TTL:?} or longer, not {0:?}")]
    Ttl(Duration),
    /// The trust domain is not one.
    #[error("{0:?} is not a trust domain")]
    TrustDomain(String),
    /// The file or its directory cannot be used.
    #[error(transparent)]
    File(#[from] RootFileError),
    /// The file is cut off or not ours.
    #[error("{} does not hold a ca certificate and its key: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// The root's time is over.
    #[error("the root certificate in {} has expired; move it away to start a new mesh identity", .0.display())]
    Expired(PathBuf),
    /// The root belongs to another mesh.
    #[error("the root certificate in {} is of {found:?}, not of {expected:?}", path.display())]
    OtherTrustDomain {
        /// The file.
        path: PathBuf,
        /// Its URI name.
        found: String,
        /// The one that the configuration wants.
        expected: String,
    },
    /// Making the root failed.
    #[error("cannot make a root certificate")]
    Make(#[from] rcgen::Error),
}

impl EmbeddedCa {
    /// Reads the root in `dir`, or makes directory and root. Blocks on the file system and on other agents' locks.
    ///
    /// `ttl` is the life of the certificates that it signs.
    pub fn open(dir: &Path, trust_domain: &str, ttl: Duration) -> Result<Self, CaError> {
        if ttl < MIN_TTL {
            return Err(CaError::Ttl(ttl));
        }
        let pem = read_or_make_root(dir, trust_domain)?;
        Self::from_pem(&pem, &root_file::path(dir), trust_domain, ttl, SystemTime::now())
    }

    fn from_pem(
        pem: &str,
        path: &Path,
        trust_domain: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let content = |reason: String| CaError::Content {
            path: path.to_owned(),
            reason,
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| content(format!("certificate: {e}")))?;
        let authority = Authority::new(vec![certificate.clone()], pem.as_bytes(), trust_domain, now)
            .map_err(|error| match error {
                AuthorityError::Content(reason) => content(reason),
                AuthorityError::Expired => CaError::Expired(path.to_owned()),
                AuthorityError::OtherTrustDomain { found, expected } => CaError::OtherTrustDomain {
                    path: path.to_owned(),
                    found,
                    expected,
                },
            })?;
        Ok(Self {
            trust_domain: trust_domain.into(),
            ttl,
            roots: watch::Sender::new([certificate].into()),
            authority,
        })
    }

    fn sign(&self, identity: &SpiffeId) -> Result<Svid, IssueError> {
        if identity.trust_domain() != &*self.trust_domain {
            let wanted = identity.trust_domain().to_owned();
            return Err(IssueError::TrustDomain {
                ours: Arc::clone(&self.trust_domain),
                wanted,
            });
        }
        let key = SecretKey::generate().map_err(IssueError::Sign)?;
        let chain = self
            .authority
            .sign(identity, &key, self.ttl, SystemTime::now())
            .map_err(IssueError::Sign)?;
        Ok(Svid::new(chain, key.to_der())?)
    }

    /// Signs anything, for tests of what a peer must refuse too.
    #[cfg(test)]
    pub(super) fn sign_unchecked(
        &self,
        params: &CertificateParams,
    ) -> Result<(CertificateDer<'static>, SecretDer), rcgen::Error> {
        let key = SecretKey::generate()?;
        Ok((self.certify(params, &key)?, key.to_der()))
    }

    #[cfg(test)]
    pub(super) fn certify(
        &self,
        params: &CertificateParams,
        key: &SecretKey,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        Ok(self.authority.sign_params(params, key)?[0].clone())
    }

    /// Signs a revocation list, for tests.
    #[cfg(test)]
    pub(super) fn sign_list(
        &self,
        list: &rcgen::CertificateRevocationListParams,
    ) -> Result<rcgen::CertificateRevocationList, rcgen::Error> {
        self.authority.sign_list(list)
    }
}

impl Issuer for EmbeddedCa {
    fn issue<'a>(&'a self, identity: &'a SpiffeId) -> BoxFuture<'a, Result<Svid, IssueError>> {
        Box::pin(async move { self.sign(identity) })
    }

    fn roots(&self) -> watch::Receiver<Roots> {
        self.roots.subscribe()
    }
}

/// Never shows the key.
impl fmt::Debug for EmbeddedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCa")
            .field("trust_domain", &self.trust_domain)
            .field("ttl", &self.ttl)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// Certificate and key of the root in `dir`, as PEM; made on the first call. Blocks.
pub fn read_or_make_root(dir: &Path, trust_domain: &str) -> Result<Zeroizing<String>, CaError> {
    root_file::read_or_make(dir, || new_root(trust_domain))
}

/// Certificate and key of a new self-signed root, as PEM in this order.
pub fn new_root(trust_domain: &str) -> Result<Zeroizing<String>, CaError> {
    // Any workload will do to find out whether the trust domain can be part of an id.
    if SpiffeId::new(trust_domain, "any", "any").is_err() {
        return Err(CaError::TrustDomain(trust_domain.to_owned()));
    }
    make_root(trust_domain, SystemTime::now()).map_err(CaError::Make)
}

/// Below this, half a life is less than what a few retries take.
const MIN_TTL: Duration = Duration::from_secs(30);

#[cfg(test)]
#[path = "embedded_ca_tests.rs"]
mod tests;
