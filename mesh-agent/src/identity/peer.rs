//! Reading who a certificate says its holder is, by the rules of the X509-SVID standard.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::trust::CLOCK_SKEW;
use crate::mesh::identity::{InvalidSpiffeId, SpiffeId};

/// Why a certificate does not prove the identity of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// The peer showed none.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// It is not a certificate.
    #[error("the certificate cannot be read")]
    Malformed,
    /// X509-SVID 2: there must be exactly one URI name.
    #[error("the certificate has {0} uri names, not one")]
    UriCount(usize),
    /// Its URI is not the SPIFFE id of a workload.
    #[error("the certificate's uri is not the id of a workload")]
    NotWorkload(#[from] InvalidSpiffeId),
    /// X509-SVID 4: a leaf must not be a CA, must have digitalSignature, and neither keyCertSign nor cRLSign.
    #[error("the certificate's basic constraints or key usage are not those of a leaf")]
    NotLeaf,
    /// Its issuer is not one of the roots.
    #[error("the certificate ends in no root of this mesh")]
    UnknownIssuer,
    /// It vouches for itself.
    #[error("the certificate is self-signed")]
    SelfSigned,
    /// A revocation list names it, or a certificate above it.
    #[error("the certificate was revoked")]
    Revoked,
    /// X509-SVID 4.4: it is not for clients, or not for servers.
    #[error("the certificate's extended key usage is not for this side of tls")]
    WrongUsage,
    /// A signature, a constraint or an algorithm in the chain is wrong.
    #[error("the certificate's chain is broken: {0}")]
    Chain(String),
    /// Its time has passed: this is also seen when an old session is resumed, where TLS does not look.
    #[error("the certificate has expired")]
    Expired,
    /// Its time has not come.
    #[error("the certificate is not valid yet")]
    NotValidYet,
    /// Another mesh.
    #[error("{found} is not of trust domain {ours}")]
    TrustDomain {
        /// Who the peer is.
        found: SpiffeId,
        /// This mesh's.
        ours: String,
    },
    /// Somebody else than the one that was dialled.
    #[error("the peer is {found}, not {expected}")]
    Unexpected {
        /// Who the peer is.
        found: SpiffeId,
        /// Who discovery says it must be.
        expected: SpiffeId,
    },
}

impl PeerIdentityError {
    /// What the verification of a chain ended in.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "webpki's enum is open: what is new is a broken chain"
    )]
    pub(super) fn of_chain(error: webpki::Error) -> Self {
        match error {
            webpki::Error::BadDer | webpki::Error::BadDerTime => Self::Malformed,
            webpki::Error::CertExpired { .. } => Self::Expired,
            webpki::Error::CertNotValidYet { .. } => Self::NotValidYet,
            webpki::Error::CertRevoked => Self::Revoked,
            webpki::Error::UnknownIssuer => Self::UnknownIssuer,
            webpki::Error::CaUsedAsEndEntity => Self::NotLeaf,
            webpki::Error::RequiredEkuNotFoundContext(_) => Self::WrongUsage,
            other => Self::Chain(other.to_string()),
        }
    }
}

/// What a leaf certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) identity: SpiffeId,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) serial: String,
}

/// Who the peer of a finished handshake is: exactly one URI name, and the certificate is valid now.
///
/// The chain was verified by the handshake. Call it after each handshake, a resumed one too: TLS does not look at
/// the dates again when it resumes a session.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>) -> Result<SpiffeId, PeerIdentityError> {
    let certificate = certificates
        .and_then(<[_]>::first)
        .ok_or(PeerIdentityError::NoCertificate)?;
    let leaf = leaf(certificate)?;
    valid_at(&leaf, SystemTime::now())?;
    Ok(leaf.identity)
}

/// When the certificate of a peer that was verified expires.
pub fn peer_not_after(certificates: Option<&[CertificateDer<'_>]>) -> Option<SystemTime> {
    let certificate = certificates.and_then(<[_]>::first)?;
    Some(leaf(certificate).ok()?.not_after)
}

/// Reads a leaf without looking at the clock.
pub(super) fn leaf(certificate: &CertificateDer<'_>) -> Result<Leaf, PeerIdentityError> {
    let (rest, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| PeerIdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(PeerIdentityError::Malformed);
    }
    if !is_leaf(&certificate)? {
        return Err(PeerIdentityError::NotLeaf);
    }
    let uris = uris(&certificate)?;
    let [uri] = uris[..] else {
        return Err(PeerIdentityError::UriCount(uris.len()));
    };
    let validity = certificate.validity();
    Ok(Leaf {
        identity: uri.parse()?,
        not_before: system_time(validity.not_before),
        not_after: system_time(validity.not_after),
        serial: certificate.raw_serial_as_string(),
    })
}

fn valid_at(leaf: &Leaf, now: SystemTime) -> Result<(), PeerIdentityError> {
    if now > leaf.not_after + CLOCK_SKEW {
        return Err(PeerIdentityError::Expired);
    }
    if now + CLOCK_SKEW < leaf.not_before {
        return Err(PeerIdentityError::NotValidYet);
    }
    Ok(())
}

/// The URI names of a certificate, a root's too.
pub(super) fn uris<'a>(certificate: &X509Certificate<'a>) -> Result<Vec<&'a str>, PeerIdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerIdentityError::Malformed)?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    Ok(names
        .iter()
        .filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                Some(*uri)
            } else {
                None
            }
        })
        .collect())
}

fn is_leaf(certificate: &X509Certificate<'_>) -> Result<bool, PeerIdentityError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| PeerIdentityError::Malformed)?;
    let usage = certificate
        .key_usage()
        .map_err(|_| PeerIdentityError::Malformed)?;
    let signs_only_data = usage.is_some_and(|usage| {
        let usage = usage.value;
        usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
    });
    Ok(signs_only_data && !constraints.is_some_and(|constraints| constraints.value.ca))
}

/// Certificates before 1970 are as good as expired then.
pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
