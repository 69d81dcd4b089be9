//! A certificate authority inside the agent, for a single machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::peer::{self, system_time};
use super::root_file::{self, RootFileError};
use super::{IssueError, Issuer, Svid};
use crate::mesh::identity::SpiffeId;

/// Signs with a root that lies in a directory of this machine, made on the first start.
///
/// Agents that share the directory share the root.
pub struct EmbeddedCa {
    trust_domain: Arc<str>,
    ttl: Duration,
    root_expires: SystemTime,
    roots: Arc<[CertificateDer<'static>]>,
    issuer: rcgen::Issuer<'static, KeyPair>,
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
        // Any workload will do to find out whether the trust domain can be part of an id.
        if SpiffeId::new(trust_domain, "any", "any").is_err() {
            return Err(CaError::TrustDomain(trust_domain.to_owned()));
        }
        let now = SystemTime::now();
        let pem = root_file::read_or_make(dir, || make_root(trust_domain, now).map_err(CaError::Make))?;
        Self::from_pem(&pem, &root_file::path(dir), trust_domain, ttl, now)
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
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| content(format!("private key: {e}")))?;
        let key = KeyPair::try_from(&key).map_err(|e| content(format!("private key: {e}")))?;
        let (_, root) =
            X509Certificate::from_der(&certificate).map_err(|e| content(format!("certificate: {e}")))?;
        if root.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(content("the key is not the certificate's".to_owned()));
        }
        if !root.is_ca() {
            return Err(content("the certificate is not a ca's".to_owned()));
        }
        let expected = format!("spiffe://{trust_domain}");
        let found = peer::uris(&root).map_err(|e| content(e.to_string()))?.join(", ");
        if found != expected {
            return Err(CaError::OtherTrustDomain {
                path: path.to_owned(),
                found,
                expected,
            });
        }
        let root_expires = system_time(root.validity().not_after);
        if root_expires <= now {
            return Err(CaError::Expired(path.to_owned()));
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            trust_domain: trust_domain.into(),
            ttl,
            root_expires,
            roots: [certificate].into(),
            issuer,
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
        let now = SystemTime::now();
        let not_after = (now + self.ttl).min(self.root_expires);
        let params = leaf_params(identity, now - CLOCK_SKEW, not_after).map_err(IssueError::Sign)?;
        self.sign_params(&params)
    }

    pub(super) fn sign_params(&self, params: &CertificateParams) -> Result<Svid, IssueError> {
        let (certificate, key) = self.sign_unchecked(params).map_err(IssueError::Sign)?;
        Ok(Svid::new(vec![certificate], key)?)
    }

    /// Signs anything, for tests of what a peer must refuse too.
    pub(super) fn sign_unchecked(
        &self,
        params: &CertificateParams,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((
            certificate.der().clone(),
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        ))
    }
}

impl Issuer for EmbeddedCa {
    fn issue<'a>(&'a self, identity: &'a SpiffeId) -> BoxFuture<'a, Result<Svid, IssueError>> {
        Box::pin(async move { self.sign(identity) })
    }

    fn roots(&self) -> Arc<[CertificateDer<'static>]> {
        Arc::clone(&self.roots)
    }
}

/// Never shows the key.
impl fmt::Debug for EmbeddedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCa")
            .field("trust_domain", &self.trust_domain)
            .field("ttl", &self.ttl)
            .field("root_expires", &self.root_expires)
            .finish_non_exhaustive()
    }
}

/// X509-SVID 2 to 4 for a leaf: one URI name (critical, since there is no subject), no CA, signs data only.
pub(super) fn leaf_params(
    identity: &SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(random_serial());
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// X509-SVID 2 and 4.1 for a root: the trust domain as its URI name, signs certificates only.
fn root_params(trust_domain: &str, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + ROOT_LIFE).into();
    params.serial_number = Some(random_serial());
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    params
        .distinguished_name
        .push(DnType::CommonName, "mesh-agent embedded CA");
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn make_root(trust_domain: &str, now: SystemTime) -> Result<String, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = root_params(trust_domain, now)?.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// RFC 5280 4.1.2.2: positive, and at most 20 octets; 16 are beyond guessing.
fn random_serial() -> SerialNumber {
    let [first, rest @ ..] = rand::random::<[u8; 16]>();
    let mut serial = vec![first & 0x7f | 0x40];
    serial.extend(rest);
    SerialNumber::from(serial)
}

/// Below this, half a life is less than what a few retries take.
const MIN_TTL: Duration = Duration::from_secs(30);

/// Ten years of 365 days.
const ROOT_LIFE: Duration = Duration::from_hours(87600);

/// How far behind the clocks of other nodes may be.
const CLOCK_SKEW: Duration = Duration::from_mins(1);

#[cfg(test)]
#[path = "embedded_ca_tests.rs"]
mod tests;
