//! A certificate with its key, and what the certificate says.

use std::fmt;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::peer::{self, Leaf, PeerIdentityError};
use super::secret::SecretDer;
use crate::mesh::identity::SpiffeId;

/// An X509-SVID: chain, leaf first and root left out, and private key, which is wiped when it is dropped.
pub struct Svid {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    key: SecretDer,
}

/// Why a chain is not an X509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an x509-svid of a workload")]
pub struct InvalidSvid(#[from] PeerIdentityError);

impl Svid {
    /// Takes what the first certificate of the chain says; verifies no signature.
    pub(super) fn new(chain: Vec<CertificateDer<'static>>, key: SecretDer) -> Result<Self, InvalidSvid> {
        let first = chain.first().ok_or(PeerIdentityError::NoCertificate)?;
        Ok(Self {
            leaf: peer::leaf(first)?,
            chain,
            key,
        })
    }

    /// Who it is for.
    pub fn identity(&self) -> &SpiffeId {
        &self.leaf.identity
    }

    /// From when on it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Its serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    pub(super) fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(super) fn key(&self) -> &SecretDer {
        &self.key
    }
}

/// Never shows the key.
impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}
