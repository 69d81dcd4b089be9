//! Certificates that somebody else keeps in files: cert-manager's CSI driver, spiffe-helper, an operator.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::pem::{self, PemError};
use super::secret::SecretDer;
use super::{IssueError, Issuer, Roots, Svid};
use crate::mesh::identity::SpiffeId;

/// Reads `DIR/NAMESPACE/SERVICE_ACCOUNT/` with `tls.crt` (leaf first), `tls.key` and `ca.crt`, or with `svid.pem`,
/// `svid_key.pem` and `svid_bundle.pem`.
///
/// Files are looked at again every `AGAIN`; the mesh trusts the roots that were read last.
pub struct FileIssuer {
    dir: PathBuf,
    roots: watch::Sender<Roots>,
}

#[derive(Debug, thiserror::Error)]
enum FilesError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no usable certificates", path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: PemError,
    },
    #[error("{} holds no private key", .0.display())]
    Key(PathBuf),
}

impl FileIssuer {
    /// Reads nothing yet.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            roots: watch::Sender::new(Arc::new([])),
        }
    }

    async fn read(&self, identity: &SpiffeId) -> Result<Svid, IssueError> {
        // Both are checked when an identity is made: neither has a slash, nor is `..`.
        let dir = self
            .dir
            .join(identity.namespace())
            .join(identity.service_account());
        let (chain, key, bundle) = read_all(&dir)
            .await
            .map_err(|error| IssueError::Failed(error.into()))?;
        let svid = Svid::new(chain, key)?;
        self.roots.send_if_modified(|known| {
            let is_news = **known != *bundle;
            if is_news {
                *known = bundle.into();
            }
            is_news
        });
        Ok(svid)
    }
}

impl Issuer for FileIssuer {
    fn issue<'a>(&'a self, identity: &'a SpiffeId) -> BoxFuture<'a, Result<Svid, IssueError>> {
        Box::pin(self.read(identity))
    }

    fn roots(&self) -> watch::Receiver<Roots> {
        self.roots.subscribe()
    }

    fn asked_again_within(&self) -> Option<Duration> {
        Some(AGAIN)
    }
}

impl fmt::Debug for FileIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileIssuer")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

type Read = (
    Vec<rustls::pki_types::CertificateDer<'static>>,
    SecretDer,
    Vec<rustls::pki_types::CertificateDer<'static>>,
);

async fn read_all(dir: &Path) -> Result<Read, FilesError> {
    let [certificate, key, bundle] = if tokio::fs::try_exists(dir.join(SPIFFE_HELPER[0]))
        .await
        .unwrap_or(false)
    {
        SPIFFE_HELPER
    } else {
        CERT_MANAGER
    }
    .map(|name| dir.join(name));
    let text = Zeroizing::new(bytes(&key).await?);
    let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|_| FilesError::Key(key))?;
    let unusable = |path: PathBuf| |source| FilesError::Certificates { path, source };
    let chain = pem::certificates(&bytes(&certificate).await?).map_err(unusable(certificate))?;
    let roots = pem::roots(&bytes(&bundle).await?).map_err(unusable(bundle))?;
    Ok((chain, SecretDer::new(secret), roots))
}

async fn bytes(path: &Path) -> Result<Vec<u8>, FilesError> {
    tokio::fs::read(path).await.map_err(|source| FilesError::Read {
        path: path.to_owned(),
        source,
    })
}

const CERT_MANAGER: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const SPIFFE_HELPER: [&str; 3] = ["svid.pem", "svid_key.pem", "svid_bundle.pem"];

/// How soon a file that was replaced is in use.
const AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::super::authority::leaf_params;
    use super::super::testing::{HOUR, TestCa, id};
    use super::*;

    fn write(dir: &Path, names: [&str; 3], ca: &TestCa) -> String {
        let now = std::time::SystemTime::now();
        let key = super::super::secret::SecretKey::generate().unwrap();
        let params = leaf_params(&id("web"), now - HOUR, now + HOUR).unwrap();
        let certificate = ca.ca.certify(&params, &key).unwrap();
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(names[0]), pem::encode(&certificate)).unwrap();
        std::fs::write(dir.join(names[1]), key.to_pem().as_bytes()).unwrap();
        std::fs::write(dir.join(names[2]), pem::encode(&ca.roots()[0])).unwrap();
        Svid::new(vec![certificate], key.to_der())
            .unwrap()
            .serial()
            .to_owned()
    }

    #[tokio::test]
    async fn both_layouts_are_read_and_a_replaced_file_is_seen() {
        for names in [CERT_MANAGER, SPIFFE_HELPER] {
            let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
            let place = dir.path().join("shop/web");
            let issuer = FileIssuer::new(dir.path().to_owned());
            issuer.issue(&id("web")).await.unwrap_err();
            for _ in 0..2 {
                let serial = write(&place, names, &ca);
                let svid = issuer.issue(&id("web")).await.unwrap();
                assert_eq!((svid.serial(), svid.identity()), (serial.as_str(), &id("web")));
                assert_eq!(issuer.roots().borrow().clone(), ca.roots());
            }
        }
    }

    #[tokio::test]
    async fn files_that_are_cut_off_are_refused() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
        let place = dir.path().join("shop/web");
        let issuer = FileIssuer::new(dir.path().to_owned());
        for name in CERT_MANAGER {
            write(&place, CERT_MANAGER, &ca);
            let whole = std::fs::read(place.join(name)).unwrap();
            std::fs::write(place.join(name), &whole[..whole.len() / 2]).unwrap();
            issuer.issue(&id("web")).await.expect_err(name);
        }
    }
}
