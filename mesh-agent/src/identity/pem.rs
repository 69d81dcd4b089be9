//! Certificates out of PEM text, strictly: a file that is cut off is an error, not a shorter list.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Why text does not hold the certificates that it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It is not PEM, or a block in it is cut off.
    #[error("not pem: {0}")]
    Pem(String),
    /// A block is no certificate.
    #[error("block {0} cannot be read as a certificate")]
    Certificate(usize),
    /// There is none.
    #[error("there is no certificate in it")]
    Empty,
    /// It should hold roots only.
    #[error("certificate {0} is not a ca's")]
    NotCa(usize),
}

/// All certificates of a text, in order; at least one.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| PemError::Pem(error.to_string()))?;
    if certificates.is_empty() {
        return Err(PemError::Empty);
    }
    for (index, certificate) in certificates.iter().enumerate() {
        parsed(certificate).ok_or(PemError::Certificate(index + 1))?;
    }
    Ok(certificates)
}

/// As [`certificates`], where each must be a CA's; the same one twice counts once.
pub fn roots(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut roots: Vec<CertificateDer<'static>> = Vec::new();
    for (index, certificate) in certificates(text)?.into_iter().enumerate() {
        if !parsed(&certificate).is_some_and(|parsed| parsed.is_ca()) {
            return Err(PemError::NotCa(index + 1));
        }
        if !roots.contains(&certificate) {
            roots.push(certificate);
        }
    }
    Ok(roots)
}

/// A certificate as PEM text.
pub fn encode(certificate: &CertificateDer<'_>) -> String {
    let block = pem::Pem::new("CERTIFICATE", certificate.to_vec());
    pem::encode_config(
        &block,
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

/// Reads a certificate that is nothing but one.
pub(super) fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Some(parsed),
        Ok(_) | Err(_) => None,
    }
}
