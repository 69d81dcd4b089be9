//! The TLS by which the agent, as itself, reads what web servers publish: they prove their names, the agent nothing.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

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

/// TLS 1.3, or 1.2 where a server knows no better, towards servers whose certificates end in one of the roots of a PEM
/// text. Only here: agents, and what they ask for certificates, speak 1.3 alone. Of a distribution's bundle what
/// cannot be read is left out: it holds roots of thirty years.
pub fn web_client(roots: &[u8]) -> Result<Arc<ClientConfig>, WebTlsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(roots).filter_map(Result::ok));
    if store.is_empty() {
        return Err(WebTlsError::NoRoots);
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ProtocolVersion, ServerConfig, SupportedProtocolVersion};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::Alpn;
    use super::super::testing::{TestCa, id};
    use super::*;

    /// A web server of one version, and the root that it is believed by.
    fn web_server(version: &'static SupportedProtocolVersion) -> (TlsAcceptor, String) {
        let root_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["keys.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(params, root_key)).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        (TlsAcceptor::from(Arc::new(config)), root.pem())
    }

    /// The version that is agreed on; `None` where none is.
    async fn agreed(
        client: Arc<ClientConfig>,
        server: TlsAcceptor,
        name: &'static str,
    ) -> Option<ProtocolVersion> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from(name).unwrap();
        let (client, _) = tokio::join!(
            Box::pin(TlsConnector::from(client).connect(name, near)),
            Box::pin(server.accept(far))
        );
        client.ok()?.get_ref().1.protocol_version()
    }

    #[tokio::test]
    async fn web_servers_are_read_over_1_3_and_1_2_and_believed_by_their_root_and_name_only() {
        for (version, expected) in [
            (&TLS13, ProtocolVersion::TLSv1_3),
            (&TLS12, ProtocolVersion::TLSv1_2),
        ] {
            let (server, root) = web_server(version);
            let client = web_client(root.as_bytes()).unwrap();
            let found = agreed(Arc::clone(&client), server.clone(), "keys.example").await;
            assert_eq!(found, Some(expected));
            assert_eq!(agreed(client, server.clone(), "other.example").await, None);
            let stranger = web_client(web_server(version).1.as_bytes()).unwrap();
            assert_eq!(agreed(stranger, server, "keys.example").await, None);
        }
    }

    /// That the library knows 1.2 is of no use to anybody who dials an agent, or is dialled by one.
    #[tokio::test]
    async fn no_agent_speaks_1_2_in_either_role() {
        let ca = TestCa::new();
        let (web, cart) = (ca.tls(&id("web")), ca.tls(&id("cart")));
        let mut old = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        old.alpn_protocols = vec![Alpn::Tcp.as_bytes().to_vec()];
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("keys.example").unwrap();
        let (_, refused) = tokio::join!(
            Box::pin(TlsConnector::from(Arc::new(old)).connect(name, near)),
            Box::pin(TlsAcceptor::from(cart.server()).accept(far))
        );
        let refused = refused.map(drop).unwrap_err().to_string();
        // Not for want of a certificate or of a common suite.
        assert!(refused.contains("Tls12NotOfferedOrEnabled"), "{refused}");

        let dialling = web.client(&id("cart"), Alpn::Tcp).unwrap();
        let (server, _) = web_server(&TLS12);
        assert_eq!(agreed(dialling, server, "keys.example").await, None);
    }
}
