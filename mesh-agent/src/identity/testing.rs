//! What the tests of this room share: a CA in memory-like places, and issuers that misbehave on demand.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber,
};
use tempfile::TempDir;

use super::authority::leaf_params;
use super::{EmbeddedCa, Issuer, Revoked, Roots, Svid, TrustRules, WorkloadTls};
use crate::mesh::identity::SpiffeId;

pub(super) const HOUR: Duration = Duration::from_hours(1);

/// An embedded CA and the directory that it lives in.
pub(super) struct TestCa {
    pub(super) ca: Arc<EmbeddedCa>,
    _dir: TempDir,
}

impl TestCa {
    pub(super) fn new() -> Self {
        Self::of("cluster.local")
    }

    pub(super) fn of(trust_domain: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(dir.path(), trust_domain, 24 * HOUR).unwrap();
        Self {
            ca: Arc::new(ca),
            _dir: dir,
        }
    }

    pub(super) fn roots(&self) -> Roots {
        self.ca.roots().borrow().clone()
    }

    /// A proper certificate, ready for handshakes.
    pub(super) fn tls(&self, identity: &SpiffeId) -> WorkloadTls {
        let now = SystemTime::now();
        self.tls_valid(identity, now - HOUR, now + HOUR)
    }

    pub(super) fn tls_valid(
        &self,
        id: &SpiffeId,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> WorkloadTls {
        let params = leaf_params(id, not_before, not_after).unwrap();
        WorkloadTls::new(&self.svid(&params), &self.roots(), &TrustRules::default()).unwrap()
    }

    pub(super) fn svid(&self, params: &CertificateParams) -> Svid {
        let (certificate, key) = self.ca.sign_unchecked(params).unwrap();
        Svid::new(vec![certificate], key).unwrap()
    }
}

/// A list of the CA's that calls back the certificate with this serial number.
pub(crate) fn revoking(ca: &EmbeddedCa, serial: SerialNumber) -> TrustRules {
    let pem = ca.sign_list(&list_of(serial)).unwrap().pem().unwrap();
    TrustRules {
        revoked: Revoked::from_pem(pem.as_bytes()).unwrap(),
        ..TrustRules::default()
    }
}

/// A list that calls back the certificate whose serial number is written like this, in hexadecimal with colons.
pub(crate) fn revoking_written(ca: &EmbeddedCa, serial: &str) -> TrustRules {
    let bytes = serial
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap());
    revoking(ca, SerialNumber::from(bytes.collect::<Vec<_>>()))
}

/// A workload of namespace `shop` in the usual trust domain.
pub(super) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account).unwrap()
}

/// The first bytes of an application's own TLS, which asks for `name`; an address is never asked for.
pub(crate) fn first_flight_to(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&super::tls::PROVIDER))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// An application that serves TLS with a certificate of these names, URIs among them, and the root that it is believed by.
pub(crate) fn tls_server(names: &[&str]) -> (tokio_rustls::TlsAcceptor, String) {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap();
    let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
    let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
    let mut leaf = CertificateParams::new(hosts).unwrap();
    let uris = uris
        .into_iter()
        .map(|uri| rcgen::SanType::URI(uri.try_into().unwrap()));
    leaf.subject_alt_names.extend(uris);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = leaf
        .signed_by(&key, &rcgen::Issuer::new(params, root_key))
        .unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&super::tls::PROVIDER))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (tokio_rustls::TlsAcceptor::from(Arc::new(config)), root.pem())
}

/// An application that serves TLS to those for whom its own root vouches, and what files of a rule for it may hold.
pub(crate) struct MutualServer {
    /// Serves as `tls_server` does.
    pub(crate) acceptor: tokio_rustls::TlsAcceptor,
    /// The root of its certificate and of its clients'.
    pub(crate) root: String,
    /// A list of the root's that names nobody, and one that names the server's certificate.
    pub(crate) lists: [String; 2],
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl MutualServer {
    /// A server that is called `host`.
    pub(crate) fn new(host: &str) -> Self {
        let root_key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key).unwrap();
        let issuer = rcgen::Issuer::new(params, root_key);
        let serial = SerialNumber::from(7);
        let mut leaf = CertificateParams::new([host.to_owned()]).unwrap();
        leaf.serial_number = Some(serial.clone());
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let provider = &super::tls::PROVIDER;
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(provider),
        );
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        let lists = [SerialNumber::from(8), serial].map(|serial| {
            let list = list_of(serial).signed_by(&issuer).unwrap();
            list.pem().unwrap()
        });
        Self {
            acceptor: tokio_rustls::TlsAcceptor::from(Arc::new(config)),
            root: root.pem(),
            lists,
            issuer,
        }
    }

    /// Certificate and key of a client of this name.
    pub(crate) fn client(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A list, in force, that names the certificate with this serial number.
fn list_of(serial: SerialNumber) -> CertificateRevocationListParams {
    let now = SystemTime::now();
    CertificateRevocationListParams {
        this_update: (now - HOUR).into(),
        next_update: (now + HOUR).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: serial,
            revocation_time: (now - HOUR).into(),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    }
}
