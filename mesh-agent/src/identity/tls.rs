//! The TLS of one local identity: its server side, and one client side for each peer that it calls.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::peer::Leaf;
use super::revocation::{CertificateName, Shown, names_of};
use super::trust::{Role, Trust, TrustRules};
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
    leaf: Leaf,
    chain: Arc<[CertificateDer<'static>]>,
    /// The chain as revocation lists name it.
    shown: Arc<[CertificateName]>,
    trust: Arc<Trust>,
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
    /// A root cannot be used, or there is none.
    #[error("the root certificates cannot be used")]
    Root(#[source] webpki::Error),
    /// Peers would refuse it.
    #[error("the certificate does not hold against the roots of this mesh")]
    Untrusted(#[source] PeerIdentityError),
    /// The provider lacks what TLS 1.3 needs, or no key for session tickets could be made.
    #[error("the cryptography provider failed")]
    Provider(#[source] rustls::Error),
}

impl WorkloadTls {
    /// Peers must show a certificate that ends in one of `roots` and obeys `rules`; so must this one itself.
    pub fn new(svid: &Svid, roots: &[CertificateDer<'static>], rules: &TrustRules) -> Result<Self, TlsError> {
        let certified = CertifiedKey::from_der(svid.chain().to_vec(), svid.key().to_tls(), &PROVIDER)
            .map_err(TlsError::Key)?;
        let certified = Arc::new(SingleCertAndKey::from(certified));
        Self::assemble(svid.leaf(), svid.chain().into(), certified, (roots, rules))
    }

    /// The same certificate with other roots or rules. Sessions made before are not resumed.
    pub fn trusting(&self, roots: &[CertificateDer<'static>], rules: &TrustRules) -> Result<Self, TlsError> {
        Self::assemble(
            &self.leaf,
            Arc::clone(&self.chain),
            Arc::clone(&self.certified),
            (roots, rules),
        )
    }

    fn assemble(
        leaf: &Leaf,
        chain: Arc<[CertificateDer<'static>]>,
        certified: Arc<SingleCertAndKey>,
        (roots, rules): (&[CertificateDer<'static>], &TrustRules),
    ) -> Result<Self, TlsError> {
        let trust = Trust::new(leaf.identity.trust_domain(), roots, rules, Arc::clone(&PROVIDER))
            .map_err(TlsError::Root)?;
        if let [end_entity, above @ ..] = &*chain {
            for role in [Role::Server, Role::Client] {
                match trust.verify(end_entity, above, role, UnixTime::now()) {
                    // When it is used is the store's business, whose clock it is.
                    Ok(_) | Err(PeerIdentityError::Expired | PeerIdentityError::NotValidYet) => {}
                    Err(error) => return Err(TlsError::Untrusted(error)),
                }
            }
        }
        let trust = Arc::new(trust);
        let callers = Callers::new(Arc::clone(&trust));
        let server = server_config(Arc::new(callers), Arc::clone(&certified)).map_err(TlsError::Provider)?;
        Ok(Self {
            leaf: leaf.clone(),
            shown: names_of(&chain),
            chain,
            trust,
            certified,
            server: Arc::new(server),
            clients: Mutex::default(),
        })
    }

    /// Who it speaks for.
    pub fn identity(&self) -> &SpiffeId {
        &self.leaf.identity
    }

    /// When its certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// The serial number of its certificate, in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// For accepting: TLS 1.3 only, both of our protocols, a client certificate of the trust domain required.
    ///
    /// Tickets are sealed with a key of this certificate, so that none outlives its renewal.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// What both ends show on a connection whose peer shows `theirs`.
    pub fn shown_with(&self, theirs: Option<&[CertificateDer<'_>]>) -> Shown {
        Shown::new(theirs, &self.shown)
    }

    /// Whether a peer that proved to be `found` may stand for `expected`: itself, or itself under an alias of this mesh.
    pub fn is_same(&self, found: &SpiffeId, expected: &SpiffeId) -> bool {
        self.trust.is_same(found, expected)
    }

    /// Whether `other` would believe this certificate of one that dials it.
    #[cfg(test)]
    pub(super) fn is_accepted_by(&self, other: &Self) -> bool {
        let [leaf, above @ ..] = &*self.chain else {
            return false;
        };
        let verified = other.trust.verify(leaf, above, Role::Client, UnixTime::now());
        verified.is_ok()
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
        let callee = Callee::new(expected.clone(), Arc::clone(&self.trust));
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

/// TLS 1.3 only. X25519MLKEM768 comes first among the groups by rustls's feature; AES-128 first among the ciphers,
/// since bulk bytes pay for each round.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
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
