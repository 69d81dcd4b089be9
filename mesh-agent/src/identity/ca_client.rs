//! Asks a CA service for certificates, over Istio's protocol: `mesh-agent ca`, istiod or istio-csr.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::istio::{CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse};
use super::pem::{self, PemError};
use super::secret::SecretKey;
use super::tls::PROVIDER;
use super::{IssueError, Issuer, Roots, Svid, csr};
use crate::grpc::{self, CallError};
use crate::mesh::identity::SpiffeId;

/// Where a CA service listens, by the name that its certificate must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaAddr {
    host: String,
    port: u16,
}

/// How the CA service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaClientSettings {
    /// Where it listens.
    pub addr: CaAddr,
    /// PEM file of the roots that its own certificate may end in; read anew for each connection.
    pub root_file: PathBuf,
    /// File with the token that proves which node this is; read anew for each request.
    pub token_file: PathBuf,
    /// How long certificates should live; the CA may give less.
    pub ttl: Duration,
}

/// An [`Issuer`] that asks a CA service. A connection for each certificate: they are rare, and so nothing is kept that
/// could be stale.
pub struct CaClient {
    settings: CaClientSettings,
    /// What the CA said last.
    roots: watch::Sender<Roots>,
    calls: Semaphore,
}

/// Why the CA service gave no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaClientError {
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no usable roots", path.display())]
    RootFile {
        path: PathBuf,
        #[source]
        source: PemError,
    },
    #[error("{} holds no usable token", .0.display())]
    TokenFile(PathBuf),
    #[error("cannot prepare tls")]
    Tls(#[source] rustls::Error),
    #[error("cannot reach the ca at {addr}")]
    Connect {
        addr: CaAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the tls handshake with the ca at {addr} failed")]
    Handshake {
        addr: CaAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the ca at {addr} gave no certificate")]
    Call {
        addr: CaAddr,
        #[source]
        source: CallError,
    },
    #[error("the ca's answer has no certificate and root")]
    Empty,
    #[error("the ca's answer cannot be read")]
    Answer(#[source] PemError),
}

impl CaClient {
    /// Connects to nothing yet.
    pub fn new(settings: CaClientSettings) -> Self {
        Self {
            settings,
            roots: watch::Sender::new(Arc::new([])),
            calls: Semaphore::new(MAX_CALLS),
        }
    }

    async fn ask(&self, identity: &SpiffeId) -> Result<Svid, IssueError> {
        // The semaphore is never closed; if it were, no permit would be no limit.
        let _permit = self.calls.acquire().await.ok();
        let key = SecretKey::generate().map_err(IssueError::Sign)?;
        let request = csr::make(identity, &key).map_err(IssueError::Sign)?;
        let seconds = i64::try_from(self.settings.ttl.as_secs()).unwrap_or(i64::MAX);
        let request = CreateCertificateRequest::on_behalf_of(identity, request, seconds);
        let answer = Box::pin(self.call(&request))
            .await
            .map_err(|error| IssueError::Failed(error.into()))?;
        let (chain, roots) = answered(&answer).map_err(|error| IssueError::Failed(error.into()))?;
        let svid = Svid::new(chain, key.to_der())?;
        self.roots.send_if_modified(|known| {
            let is_news = **known != *roots;
            if is_news {
                tracing::info!(roots = roots.len(), "the ca names other roots");
                *known = roots.into();
            }
            is_news
        });
        Ok(svid)
    }

    async fn call(
        &self,
        request: &CreateCertificateRequest,
    ) -> Result<CreateCertificateResponse, CaClientError> {
        let addr = &self.settings.addr;
        let authorization = self.authorization().await?;
        let stream = self.connect().await?;
        let to = (addr.to_string(), CREATE_CERTIFICATE);
        Box::pin(grpc::call(stream, (&to.0, to.1), authorization, request))
            .await
            .map_err(|source| CaClientError::Call {
                addr: addr.clone(),
                source,
            })
    }

    /// A connection on which the CA has proved itself.
    pub(crate) async fn connect(&self) -> Result<TlsStream<TcpStream>, CaClientError> {
        let addr = &self.settings.addr;
        let connector = TlsConnector::from(Arc::new(self.tls().await?));
        let failed = |source| CaClientError::Connect {
            addr: addr.clone(),
            source,
        };
        let stream = TcpStream::connect((addr.host.as_str(), addr.port))
            .await
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        connector
            .connect(addr.server_name(), stream)
            .await
            .map_err(|source| CaClientError::Handshake {
                addr: addr.clone(),
                source,
            })
    }

    /// Trusts the file, and what the CA named itself: so its root can be replaced before the file is.
    async fn tls(&self) -> Result<ClientConfig, CaClientError> {
        let path = &self.settings.root_file;
        let text = read(path).await?;
        let from_file = pem::roots(&text).map_err(|source| CaClientError::RootFile {
            path: path.clone(),
            source,
        })?;
        let learned = self.roots.borrow().clone();
        let mut store = RootCertStore::empty();
        for root in from_file.iter().chain(learned.iter()) {
            store.add(root.clone()).map_err(CaClientError::Tls)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&TLS13])
            .map_err(CaClientError::Tls)?
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    async fn authorization(&self) -> Result<HeaderValue, CaClientError> {
        let path = &self.settings.token_file;
        let unusable = || CaClientError::TokenFile(path.clone());
        let text = Zeroizing::new(read(path).await?);
        let token = std::str::from_utf8(&text).map_err(|_| unusable())?.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable());
        }
        let header = Zeroizing::new(format!("Bearer {token}"));
        let mut header = HeaderValue::from_str(&header).map_err(|_| unusable())?;
        header.set_sensitive(true);
        Ok(header)
    }
}

impl Issuer for CaClient {
    fn issue<'a>(&'a self, identity: &'a SpiffeId) -> BoxFuture<'a, Result<Svid, IssueError>> {
        Box::pin(self.ask(identity))
    }

    fn roots(&self) -> watch::Receiver<Roots> {
        self.roots.subscribe()
    }
}

impl fmt::Debug for CaClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaClient")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl CaAddr {
    fn server_name(&self) -> ServerName<'static> {
        // Checked when it was read; an address is always a name.
        ServerName::try_from(self.host.clone())
            .unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
    }
}

impl FromStr for CaAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // A colon without brackets: an IPv6 address, whose last group would be taken for the port.
        if bare.is_none() && host.contains(':') {
            return Err(wrong());
        }
        let host = bare.unwrap_or(host).to_owned();
        ServerName::try_from(host.as_str()).map_err(|_| wrong())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for CaAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

type ChainAndRoots = (Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>);

/// Leaf and intermediates, and the roots: all of the last element, as istiod too sends several while it changes them.
fn answered(answer: &CreateCertificateResponse) -> Result<ChainAndRoots, CaClientError> {
    let [leaf, middle @ .., last] = &answer.cert_chain[..] else {
        return Err(CaClientError::Empty);
    };
    let mut chain = pem::certificates(leaf.as_bytes()).map_err(CaClientError::Answer)?;
    for above in middle {
        chain.extend(pem::certificates(above.as_bytes()).map_err(CaClientError::Answer)?);
    }
    let roots = pem::roots(last.as_bytes()).map_err(CaClientError::Answer)?;
    Ok((chain, roots))
}

async fn read(path: &Path) -> Result<Vec<u8>, CaClientError> {
    tokio::fs::read(path).await.map_err(|source| CaClientError::File {
        path: path.to_owned(),
        source,
    })
}

/// Calls at once: a node with hundreds of pods starts without a storm.
const MAX_CALLS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_name_and_a_port() {
        for good in ["mesh-ca.mesh-system.svc:15012", "10.0.0.1:1", "[fd00::1]:15012"] {
            assert_eq!(good.parse::<CaAddr>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "ca",
            "ca:",
            "ca:0",
            "ca:70000",
            "fd00::1:15012",
            "https://ca:1",
            "a b:1",
        ] {
            bad.parse::<CaAddr>().expect_err(bad);
        }
    }

    #[test]
    fn an_answer_without_a_root_is_refused() {
        for chain in [vec![], vec![String::new()], vec!["x".to_owned(), "y".to_owned()]] {
            let answer = CreateCertificateResponse { cert_chain: chain };
            answered(&answer).unwrap_err();
        }
    }
}
