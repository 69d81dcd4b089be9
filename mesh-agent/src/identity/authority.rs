//! A certificate authority's certificate and key, and what it signs: X509-SVIDs of workloads, and its own server name.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use super::peer::{self, system_time};
use super::pem;
use super::secret::SecretKey;
use crate::mesh::identity::SpiffeId;

/// Signs certificates. Immutable: another key or chain makes another authority.
pub struct Authority {
    /// The signing certificate and those above it, the root left out.
    intermediates: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
    issuer: rcgen::Issuer<'static, SecretKey>,
}

/// Why certificates and a key do not make an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Something in the texts is cut off or of another kind.
    #[error("{0}")]
    Content(String),
    /// A certificate of the chain is past its time.
    #[error("a certificate of the chain has expired")]
    Expired,
    /// The authority belongs to another mesh.
    #[error("the signing certificate is of {found:?}, not of {expected:?}")]
    OtherTrustDomain {
        /// Its URI name.
        found: String,
        /// The one that the configuration wants.
        expected: String,
    },
}

impl Authority {
    /// `chain` is the signing certificate first, then those that sign it; `key` the signing certificate's.
    ///
    /// A signing certificate with a URI name must name the trust domain (X509-SVID 4.1); one without is taken too,
    /// since authorities of other makers have none.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key_pem: &[u8],
        trust_domain: &str,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let content = |reason: &str| AuthorityError::Content(reason.to_owned());
        let key = SecretKey::from_pem(key_pem)
            .map_err(|error| AuthorityError::Content(format!("private key: {error}")))?;
        let signing = chain.first().ok_or_else(|| content("there is no certificate"))?;
        let parsed = pem::parsed(signing).ok_or_else(|| content("the certificate cannot be read"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(content("the key is not the certificate's"));
        }
        if !parsed.is_ca() {
            return Err(content("the certificate is not a ca's"));
        }
        let found = peer::uris(&parsed)
            .map_err(|error| AuthorityError::Content(error.to_string()))?
            .join(", ");
        let expected = format!("spiffe://{trust_domain}");
        if !found.is_empty() && found != expected {
            return Err(AuthorityError::OtherTrustDomain { found, expected });
        }
        let mut not_after = system_time(parsed.validity().not_after);
        for above in &chain {
            let above = pem::parsed(above).ok_or_else(|| content("the chain cannot be read"))?;
            not_after = not_after.min(system_time(above.validity().not_after));
        }
        if not_after <= now {
            return Err(AuthorityError::Expired);
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(signing, key)
            .map_err(|error| AuthorityError::Content(format!("certificate: {error}")))?;
        let intermediates = chain
            .into_iter()
            .filter(|certificate| !pem::parsed(certificate).is_some_and(|parsed| is_self_issued(&parsed)))
            .collect();
        Ok(Self {
            intermediates,
            not_after,
            issuer,
        })
    }

    /// When the first certificate of its chain expires; nothing that it signs lives longer.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The chain of `identity` for the holder of `key`, leaf first, root left out, valid for `ttl` or as long as the
    /// authority itself.
    pub fn sign(
        &self,
        identity: &SpiffeId,
        key: &impl PublicKeyData,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, rcgen::Error> {
        let not_after = (now + ttl).min(self.not_after);
        self.sign_params(&leaf_params(identity, now - CLOCK_SKEW, not_after)?, key)
    }

    /// A certificate for a server that answers by these names.
    pub(super) fn sign_server(
        &self,
        names: &[ServerIdentity],
        key: &impl PublicKeyData,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + ttl).min(self.not_after).into();
        params.serial_number = Some(random_serial());
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            params.subject_alt_names.push(match name {
                ServerIdentity::Dns(name) => SanType::DnsName(name.as_ref().try_into()?),
                ServerIdentity::Ip(addr) => SanType::IpAddress(*addr),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        self.sign_params(&params, key)
    }

    #[cfg(test)]
    pub(super) fn sign_list(
        &self,
        list: &rcgen::CertificateRevocationListParams,
    ) -> Result<rcgen::CertificateRevocationList, rcgen::Error> {
        list.signed_by(&self.issuer)
    }

    pub(super) fn sign_params(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Vec<CertificateDer<'static>>, rcgen::Error> {
        let leaf = params.signed_by(key, &self.issuer)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(chain)
    }
}

/// Never shows the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("intermediates", &self.intermediates.len())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A name that a server is dialled by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerIdentity {
    /// A DNS name.
    Dns(Arc<str>),
    /// An address.
    Ip(IpAddr),
}

impl std::str::FromStr for ServerIdentity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(addr) = text.parse() {
            return Ok(Self::Ip(addr));
        }
        match rustls::pki_types::DnsName::try_from(text) {
            Ok(_) => Ok(Self::Dns(text.into())),
            Err(_) => Err(format!("{text:?} is neither an address nor a dns name")),
        }
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
    // Two roots of one trust domain must differ in name, or a verifier cannot tell which one signed.
    let name = format!("mesh-agent root {:08x}", rand::random::<u32>());
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A new self-signed root of a trust domain and its key, as PEM.
pub(super) fn make_root(
    trust_domain: &str,
    now: SystemTime,
) -> Result<zeroize::Zeroizing<String>, rcgen::Error> {
    let key = SecretKey::generate()?;
    let certificate = root_params(trust_domain, now)?.self_signed(&key)?;
    let key = key.to_pem();
    // Allocated once, so that no copy of the key is left behind by growing.
    let mut both = String::with_capacity(certificate.pem().len() + key.len());
    both.push_str(&certificate.pem());
    both.push_str(&key);
    Ok(both.into())
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

/// RFC 5280 4.1.2.2: positive, and at most 20 octets; 16 are beyond guessing.
fn random_serial() -> SerialNumber {
    let [first, rest @ ..] = rand::random::<[u8; 16]>();
    let mut serial = vec![first & 0x7f | 0x40];
    serial.extend(rest);
    SerialNumber::from(serial)
}

/// Ten years of 365 days.
pub(super) const ROOT_LIFE: Duration = Duration::from_hours(87600);

/// How far behind the clocks of other nodes may be.
const CLOCK_SKEW: Duration = Duration::from_mins(1);
