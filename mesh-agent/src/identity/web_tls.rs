//! The TLS by which the agent, as itself, reads what web servers publish: they prove their names, the agent nothing.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use super::tls::PROVIDER;

/// Why no web server can be believed.
#[derive(Debug, thiserror::Error)]
pub enum WebTlsError {
    /// No certificate of the file can be a root.
    #[error("there is no usable root in it")]
    NoRoots,
    /// The TLS library does not take it.
    #[error("cannot prepare tls")]
    Tls(#[from] rustls::Error),
}

/// TLS 1.3 towards servers whose certificates end in one of the roots of a PEM text. Of a distribution's bundle what
/// cannot be read is left out: it holds roots of thirty years.
pub fn web_client(roots: &[u8]) -> Result<Arc<ClientConfig>, WebTlsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(roots).filter_map(Result::ok));
    if store.is_empty() {
        return Err(WebTlsError::NoRoots);
    }
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
