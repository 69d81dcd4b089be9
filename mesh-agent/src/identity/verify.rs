//! What a TLS handshake accepts: a chain to our roots, and a leaf that is a workload of our trust domain.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::peer::PeerIdentityError;
use super::trust::{Role, Trust};
use crate::mesh::identity::SpiffeId;

/// The server's side: any workload of the trust domain may call; policy decides later what it may do.
#[derive(Debug)]
pub(super) struct Callers {
    trust: Arc<Trust>,
}

/// The client's side: only the workload that discovery named may answer.
#[derive(Debug)]
pub(super) struct Callee {
    expected: SpiffeId,
    trust: Arc<Trust>,
}

impl Callers {
    pub(super) fn new(trust: Arc<Trust>) -> Self {
        Self { trust }
    }
}

impl ClientCertVerifier for Callers {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// None: agents have one certificate for each identity and need no hint.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust
            .verify(end_entity, intermediates, Role::Client, now)
            .map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.trust.provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.trust.provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust
            .provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl Callee {
    pub(super) fn new(expected: SpiffeId, trust: Arc<Trust>) -> Self {
        Self { expected, trust }
    }
}

impl ServerCertVerifier for Callee {
    /// The name that was dialled is an address and proves nothing: the SPIFFE id is what must fit.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = self
            .trust
            .verify(end_entity, intermediates, Role::Server, now)
            .map_err(refused)?
            .identity;
        if self.trust.is_same(&found, &self.expected) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused(PeerIdentityError::Unexpected {
                found,
                expected: self.expected.clone(),
            }))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.trust.provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.trust.provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust
            .provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Rustls turns it into the fatal alert that says most; our own log keeps the cause.
fn refused(error: PeerIdentityError) -> Error {
    Error::InvalidCertificate(match error {
        PeerIdentityError::Expired => CertificateError::Expired,
        PeerIdentityError::NotValidYet => CertificateError::NotValidYet,
        PeerIdentityError::Revoked => CertificateError::Revoked,
        PeerIdentityError::UnknownIssuer => CertificateError::UnknownIssuer,
        PeerIdentityError::WrongUsage => CertificateError::InvalidPurpose,
        PeerIdentityError::NoCertificate
        | PeerIdentityError::Malformed
        | PeerIdentityError::UriCount(_)
        | PeerIdentityError::NotWorkload(_)
        | PeerIdentityError::NotLeaf
        | PeerIdentityError::SelfSigned
        | PeerIdentityError::Chain(_)
        | PeerIdentityError::TrustDomain { .. }
        | PeerIdentityError::Unexpected { .. } => CertificateError::Other(OtherError(Arc::new(error))),
    })
}
