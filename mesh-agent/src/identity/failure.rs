//! Why a handshake failed, as one word of a closed set: for metrics and logs.

use std::io;

use rustls::CertificateError;

use super::PeerIdentityError;

/// Why a handshake failed, as a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// The peer showed no certificate.
    NoCertificate,
    /// The peer's certificate cannot be read.
    Malformed,
    /// The peer's certificate ends in no root of ours, or its chain is broken.
    Untrusted,
    /// The peer's certificate is signed by itself alone.
    SelfSigned,
    /// The peer's certificate is past its time.
    Expired,
    /// The peer's certificate is before its time.
    NotValidYet,
    /// The peer's certificate was called back.
    Revoked,
    /// The peer's certificate is a CA's, or may do more than sign data.
    NotLeaf,
    /// The peer's certificate is not for this side of TLS.
    WrongUsage,
    /// The peer's certificate has not exactly one name that is a workload's.
    Name,
    /// The peer is of another mesh.
    TrustDomain,
    /// The peer is a workload, but not the one that was dialled.
    Identity,
    /// The peer gave up, which includes that it does not trust us.
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
            PeerIdentityError::Malformed => Self::Malformed,
            PeerIdentityError::Expired => Self::Expired,
            PeerIdentityError::NotValidYet => Self::NotValidYet,
            PeerIdentityError::Revoked => Self::Revoked,
            PeerIdentityError::SelfSigned => Self::SelfSigned,
            PeerIdentityError::UnknownIssuer | PeerIdentityError::Chain(_) => Self::Untrusted,
            PeerIdentityError::WrongUsage => Self::WrongUsage,
            PeerIdentityError::NotLeaf => Self::NotLeaf,
            PeerIdentityError::UriCount(_) | PeerIdentityError::NotWorkload(_) => Self::Name,
            PeerIdentityError::TrustDomain { .. } => Self::TrustDomain,
            PeerIdentityError::Unexpected { .. } => Self::Identity,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "rustls's enum is open: what is new is untrusted"
    )]
    fn of_certificate(cause: &CertificateError) -> Self {
        match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotValidYet,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::BadEncoding => Self::Malformed,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongUsage
            }
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
            Self::Malformed => "malformed",
            Self::Untrusted => "untrusted",
            Self::SelfSigned => "self_signed",
            Self::Expired => "expired",
            Self::NotValidYet => "not_valid_yet",
            Self::Revoked => "revoked",
            Self::NotLeaf => "not_leaf",
            Self::WrongUsage => "wrong_usage",
            Self::Name => "name",
            Self::TrustDomain => "trust_domain",
            Self::Identity => "identity",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Io => "io",
        }
    }
}
