//! The TLS of one local identity: its server side, and one client side for each peer that it calls.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite};
use rustls::pki_types::CertificateDer;
use rustls::server::VerifierBuilderError;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};

use super::verify::{Callee, Callers};
use super::{ALPN_H1, ALPN_H2, ALPN_TCP, PeerIdentityError, Svid};
use crate::mesh::identity::SpiffeId;

/// What a connection between agents carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2, many requests: [`ALPN_H2`].
    H2,
    /// One HTTP/1.1 connection that asks to change protocol: [`ALPN_H1`].
    H1,
    /// One TCP connection: [`ALPN_TCP`].
    Tcp,
}

impl Alpn {
    /// As it stands in the handshake.
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::H2 => ALPN_H2,
            Self::H1 => ALPN_H1,
            Self::Tcp => ALPN_TCP,
        }
    }

    /// Whether the connection carries one connection of an application and nothing else.
    pub const fn is_of_one_client(self) -> bool {
        match self {
            Self::H2 => false,
            Self::H1 | Self::Tcp => true,
        }
    }

    /// What was agreed on in a handshake; none if it is not ours.
    pub fn from_bytes(protocol: &[u8]) -> Option<Self> {
        [Self::H2, Self::H1, Self::Tcp]
            .into_iter()
            .find(|alpn| alpn.as_bytes() == protocol)
    }
}

/// One certificate made ready for handshakes. Immutable: a renewal makes another.
#[derive(Debug)]
pub struct WorkloadTls {
    identity: SpiffeId,
    not_after: SystemTime,
    serial: String,
    roots: Arc<RootCertStore>,
    certified: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
    clients: Mutex<HashMap<(SpiffeId, Alpn), Arc<ClientConfig>>>,
}

/// Why a certificate cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Key and certificate do not fit, or one cannot be used.
    #[error("the key or the certificate cannot be used")]
    Key(#[source] rustls::Error),
    /// A root cannot be used.
    #[error("a root certificate cannot be used")]
    Root(#[source] rustls::Error),
    /// There is no root to verify peers with.
    #[error("peers cannot be verified")]
    Verifier(#[from] VerifierBuilderError),
    /// The provider lacks what TLS 1.3 needs, or no key for session tickets could be made.
    #[error("the cryptography provider failed")]
    Provider(#[source] rustls::Error),
}

impl WorkloadTls {
    /// Peers must show a certificate that ends in one of `roots`.
    pub fn new(svid: &Svid, roots: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(TlsError::Root)?;
        }
        let store = Arc::new(store);
        let certified = CertifiedKey::from_der(svid.chain().to_vec(), svid.key().clone_key(), &PROVIDER)
            .map_err(TlsError::Key)?;
        let certified = Arc::new(SingleCertAndKey::from(certified));
        let callers = Callers::new(
            svid.identity().trust_domain(),
            Arc::clone(&store),
            Arc::clone(&PROVIDER),
        )?;
        let server = server_config(Arc::new(callers), Arc::clone(&certified)).map_err(TlsError::Provider)?;
        Ok(Self {
            identity: svid.identity().clone(),
            not_after: svid.not_after(),
            serial: svid.serial().to_owned(),
            roots: store,
            certified,
            server: Arc::new(server),
            clients: Mutex::default(),
        })
    }

    /// Who it speaks for.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// When its certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The serial number of its certificate, in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// For accepting: TLS 1.3 only, both of our protocols, a client certificate of the trust domain required.
    ///
    /// Tickets are sealed with a key of this certificate, so that none outlives its renewal.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For dialling `expected`, and nobody else. The same pair gets the same configuration, whose sessions are
    /// resumed by the address that is dialled.
    ///
    /// Takes a short lock; call it once a dial, not once a request.
    pub fn client(&self, expected: &SpiffeId, alpn: Alpn) -> Result<Arc<ClientConfig>, TlsError> {
        let key = (expected.clone(), alpn);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(Arc::clone(client));
        }
        if clients.len() >= MAX_CLIENTS {
            // Costs those that are still called one full handshake, and keeps memory bounded.
            clients.clear();
        }
        let callee = Callee::new(expected.clone(), Arc::clone(&self.roots), Arc::clone(&PROVIDER));
        let client = client_config(callee, Arc::clone(&self.certified), alpn).map_err(TlsError::Provider)?;
        let client = Arc::new(client);
        clients.insert(key, Arc::clone(&client));
        Ok(client)
    }
}

fn server_config(
    callers: Arc<Callers>,
    certified: Arc<SingleCertAndKey>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(callers)
        .with_cert_resolver(certified);
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_H1.to_vec(), ALPN_TCP.to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(config)
}

fn client_config(
    callee: Callee,
    certified: Arc<SingleCertAndKey>,
    alpn: Alpn,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(callee))
        .with_client_cert_resolver(certified);
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    // Who is called is nobody else's business, and an address is no name.
    config.enable_sni = false;
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}

/// Why a handshake between agents failed: the label `reason` of `mesh_handshake_failures_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// The peer showed no certificate.
    NoCertificate,
    /// The peer's certificate is not signed by our roots, or not fit for its purpose.
    Untrusted,
    /// The peer's certificate has expired or is not valid yet.
    Expired,
    /// The peer is a workload of another mesh, another one than expected, or none.
    Identity,
    /// The peer sent an alert: it refused us.
    RefusedByPeer,
    /// There is no protocol in common, or the peer broke TLS.
    Protocol,
    /// The time was over.
    Timeout,
    /// The connection failed.
    Io,
}

impl HandshakeFailure {
    /// Reads it from the error of a handshake, or of [`peer_identity`](super::peer_identity) after it.
    pub fn of(error: &io::Error) -> Self {
        // The seam to tokio-rustls, which wraps rustls's error.
        let inner = error.get_ref();
        if let Some(refused) = inner.and_then(|inner| inner.downcast_ref::<PeerIdentityError>()) {
            return Self::of_identity(refused);
        }
        match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(rustls::Error::InvalidCertificate(cause)) => Self::of_certificate(cause),
            Some(rustls::Error::AlertReceived(_)) => Self::RefusedByPeer,
            Some(_) => Self::Protocol,
            None if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            None => Self::Io,
        }
    }

    fn of_identity(error: &PeerIdentityError) -> Self {
        match error {
            PeerIdentityError::NoCertificate => Self::NoCertificate,
            PeerIdentityError::Expired | PeerIdentityError::NotValidYet => Self::Expired,
            PeerIdentityError::Malformed
            | PeerIdentityError::UriCount(_)
            | PeerIdentityError::NotWorkload(_)
            | PeerIdentityError::NotLeaf
            | PeerIdentityError::TrustDomain { .. }
            | PeerIdentityError::Unexpected { .. } => Self::Identity,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "rustls's enum is open: what is new is untrusted"
    )]
    fn of_certificate(cause: &CertificateError) -> Self {
        match cause {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Expired,
            // What our own verifiers refuse, see `verify`.
            CertificateError::Other(other) => {
                other.0.downcast_ref().map_or(Self::Untrusted, Self::of_identity)
            }
            _ => Self::Untrusted,
        }
    }

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Untrusted => "untrusted",
            Self::Expired => "expired",
            Self::Identity => "identity",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Io => "io",
        }
    }
}

/// TLS 1.3 only. X25519MLKEM768 comes first among the groups by rustls's feature; AES-128 first among the ciphers,
/// since bulk bytes pay for each round.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider {
        cipher_suites,
        ..aws_lc_rs::default_provider()
    })
});

/// Peers' identities that one local identity keeps a configuration for.
const MAX_CLIENTS: usize = 1_024;

/// Addresses of one peer identity for which sessions are kept; rustls keeps up to 8 tickets for each.
const SESSIONS: usize = 256;
