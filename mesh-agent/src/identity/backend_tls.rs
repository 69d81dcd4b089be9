//! The TLS by which the agent, for a pod, speaks with applications that serve nothing else: they prove what a policy asks
//! for, the agent nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::mesh::backend_tls::{BackendTls, PeerName, TrustedRoots};

/// Why no handshake with an application can begin.
#[derive(Debug, thiserror::Error)]
pub enum BackendTlsError {
    /// Its policy was reported: it cannot be honoured.
    #[error("the policy of the backend's tls cannot be honoured")]
    Impossible,
    /// The node's bundle cannot be read.
    #[error("cannot read the roots in {}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No certificate can be a root.
    #[error("there is no usable root")]
    NoRoots,
    /// Nobody can be asked for by this name.
    #[error("the backend's name is no name of a server")]
    Name(#[from] InvalidDnsNameError),
    /// The TLS library does not take it.
    #[error("cannot prepare tls")]
    Tls(#[from] Error),
}

/// The configurations in use, each made once: sessions are resumed by them. Clones share them.
#[derive(Debug, Clone)]
pub struct BackendClients {
    bundle: Arc<Path>,
    known: Arc<Mutex<HashMap<(u64, BackendAlpn), Known>>>,
}

#[derive(Debug)]
struct Known {
    of: Weak<BackendTls>,
    config: Arc<ClientConfig>,
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendAlpn {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
    /// Bytes, of which nothing is said.
    Bytes,
}

impl BackendClients {
    /// `bundle` is the file of roots that the node itself believes.
    pub fn new(bundle: &Path) -> Self {
        Self {
            bundle: bundle.into(),
            known: Arc::default(),
        }
    }

    /// The configuration for `tls`, and the name that is asked for. Reads the bundle once; what no snapshot names any more
    /// is forgotten when another is made.
    pub fn client(
        &self,
        tls: &Arc<BackendTls>,
        alpn: BackendAlpn,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), BackendTlsError> {
        let name = ServerName::try_from(tls.name.as_deref().unwrap_or_default().to_owned())?;
        let key = (tls.number(), alpn);
        if let Some(known) = self.known.lock().get(&key)
            && known.of.upgrade().is_some_and(|of| of == *tls)
        {
            return Ok((Arc::clone(&known.config), name));
        }
        let config = Arc::new(self.config(tls, alpn, &name)?);
        let mut known = self.known.lock();
        known.retain(|_, known| known.of.strong_count() > 0);
        let of = Arc::downgrade(tls);
        let made = Known {
            of,
            config: Arc::clone(&config),
        };
        known.insert(key, made);
        Ok((config, name))
    }

    fn config(
        &self,
        tls: &BackendTls,
        alpn: BackendAlpn,
        name: &ServerName<'static>,
    ) -> Result<ClientConfig, BackendTlsError> {
        let provider = Arc::new(default_provider());
        let mut names = Vec::new();
        for peer in &tls.names {
            names.push(match peer {
                PeerName::Host(host) => Wanted::Host(ServerName::try_from(host.as_ref().to_owned())?),
                PeerName::Uri(uri) => Wanted::Uri(Arc::clone(uri)),
            });
        }
        if names.is_empty() {
            names.push(Wanted::Host(name.clone()));
        }
        let verifier = Verifier {
            roots: self.roots(&tls.roots)?,
            names,
            provider: Arc::clone(&provider),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = match alpn {
            BackendAlpn::H1 => vec![b"http/1.1".to_vec()],
            BackendAlpn::H2 => vec![b"h2".to_vec()],
            BackendAlpn::Bytes => Vec::new(),
        };
        Ok(config)
    }

    fn roots(&self, roots: &TrustedRoots) -> Result<RootCertStore, BackendTlsError> {
        let pem = match roots {
            TrustedRoots::Nobody => return Err(BackendTlsError::Impossible),
            TrustedRoots::Pem(pem) => pem.as_bytes().to_vec(),
            TrustedRoots::System => fs::read(&self.bundle).map_err(|source| BackendTlsError::Bundle {
                path: self.bundle.to_path_buf(),
                source,
            })?,
        };
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        if store.is_empty() {
            return Err(BackendTlsError::NoRoots);
        }
        Ok(store)
    }
}

/// Whether PEM holds a certificate that can be a root.
pub fn holds_a_root(pem: &str) -> bool {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok));
    !store.is_empty()
}

/// A chain to the roots, and any of the names.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    names: Vec<Wanted>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Wanted {
    Host(ServerName<'static>),
    Uri(Arc<str>),
}

impl ServerCertVerifier for Verifier {
    /// The name that is asked for counts only where it is among the names.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let is_named = self.names.iter().any(|wanted| match wanted {
            Wanted::Host(host) => verify_server_name(&parsed, host).is_ok(),
            Wanted::Uri(uri) => has_uri(end_entity, uri),
        });
        if is_named {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Letter by letter, as SPIFFE compares ids.
fn has_uri(certificate: &CertificateDer<'_>, wanted: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let mut names = names.value.general_names.iter();
    names.any(|name| matches!(name, GeneralName::URI(uri) if *uri == wanted))
}
