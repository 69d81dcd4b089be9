//! Whom the agent believes an application's certificate: a chain to the roots of a policy, and any of its names.
//!
//! Place in the walk: in the middle of a handshake with an application. Must not know: where roots and lists come from.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// What a policy asks of an application.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) believed: Believed,
    pub(super) provider: Arc<CryptoProvider>,
}

/// Who is believed.
#[derive(Debug)]
pub(super) enum Believed {
    /// Whoever has the key to the certificate that it shows, whatever that is.
    Anybody,
    /// Who has a chain to the roots, and any of the names.
    Proved {
        roots: RootCertStore,
        names: Vec<Wanted>,
        /// Where there is one, lists must cover the whole chain, as in Envoy.
        revoked: Vec<CertRevocationList<'static>>,
    },
}

#[derive(Debug)]
pub(super) enum Wanted {
    Host(ServerName<'static>),
    Uri(Arc<str>),
}

impl Verifier {
    /// That no list names a certificate of the chain, and that there is one in force of each of its issuers.
    fn not_revoked(
        &self,
        (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        roots: &RootCertStore,
        revoked: &[CertRevocationList<'static>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let lists: Vec<_> = revoked.iter().collect();
        // Without lists there is nothing to ask.
        let Ok(options) = RevocationOptionsBuilder::new(&lists) else {
            return Ok(());
        };
        let options = options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build();
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = EndEntityCert::try_from(end_entity).map_err(unproved)?;
        let usage = KeyUsage::server_auth();
        let chain = certificate.verify_for_usage(
            algorithms,
            &roots.roots,
            intermediates,
            now,
            usage,
            Some(options),
            None,
        );
        chain.map(drop).map_err(unproved)
    }
}

fn unproved(error: webpki::Error) -> Error {
    Error::InvalidCertificate(if error == webpki::Error::CertRevoked {
        CertificateError::Revoked
    } else if error == webpki::Error::UnknownRevocationStatus {
        CertificateError::UnknownRevocationStatus
    } else {
        CertificateError::Other(OtherError(Arc::new(error)))
    })
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
        let Believed::Proved {
            roots,
            names,
            revoked,
        } = &self.believed
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        self.not_revoked((end_entity, intermediates), roots, revoked, now)?;
        let is_named = names.iter().any(|wanted| match wanted {
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
