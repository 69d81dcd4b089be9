//! The TLS of the CA service itself: a server certificate of its own authority, and no client certificate asked for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::version::TLS13;

use super::authority::{Authority, ServerIdentity};
use super::peer::PeerIdentityError;
use super::secret::SecretKey;
use super::tls::PROVIDER;
use super::trust::{Role, Trust, TrustRules};
use crate::mesh::identity::SpiffeId;

/// Why the service cannot be given a certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// Making or signing it failed.
    #[error("cannot sign a certificate")]
    Sign(#[from] rcgen::Error),
    /// The TLS library does not take it.
    #[error("cannot prepare tls")]
    Tls(#[from] rustls::Error),
    /// A root cannot be used.
    #[error("a root cannot be used")]
    Root(#[source] webpki::Error),
    /// Agents would refuse whatever this authority signs.
    #[error("what it signs does not hold against the roots")]
    Untrusted(#[source] PeerIdentityError),
}

/// TLS 1.3 and HTTP/2 under `names`, with a new key, for `ttl`.
pub fn server_config(
    authority: &Authority,
    names: &[ServerIdentity],
    ttl: Duration,
    now: SystemTime,
) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let key = SecretKey::generate()?;
    let chain = authority.sign_server(names, &key, ttl, now)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key.to_der().to_tls())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A full handshake is cheap beside a signature, and a ticket would outlive a change of roots.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Signs for a workload that does not exist and verifies that as an agent would.
pub fn prove(
    authority: &Authority,
    roots: &[CertificateDer<'static>],
    trust_domain: &str,
    now: SystemTime,
) -> Result<(), ServerTlsError> {
    let nobody = SpiffeId::new(trust_domain, "nobody", "nobody")
        .map_err(|error| ServerTlsError::Untrusted(PeerIdentityError::NotWorkload(error)))?;
    let chain = authority.sign(&nobody, &SecretKey::generate()?, Duration::from_mins(1), now)?;
    let trust = Trust::new(trust_domain, roots, &TrustRules::default(), Arc::clone(&PROVIDER))
        .map_err(ServerTlsError::Root)?;
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = rustls::pki_types::UnixTime::since_unix_epoch(since_epoch);
    let [leaf, above @ ..] = &chain[..] else {
        return Err(ServerTlsError::Untrusted(PeerIdentityError::NoCertificate));
    };
    trust
        .verify(leaf, above, Role::Server, at)
        .map(drop)
        .map_err(ServerTlsError::Untrusted)
}
