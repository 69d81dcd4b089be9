//! Private keys that are wiped when they are dropped, and that nothing can print.

use std::fmt;

use rcgen::{Error, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize;

/// A private key in memory.
pub(super) struct SecretKey(KeyPair);

/// A private key as the TLS library takes it.
pub(super) struct SecretDer(PrivateKeyDer<'static>);

impl SecretKey {
    /// A new key of curve P-256, which every X.509 implementation knows.
    pub(super) fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// The first key of a PEM text. The text itself is the caller's to wipe.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| error.to_string())?;
        let key = SecretDer::new(key);
        KeyPair::try_from(&key.0)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    pub(super) fn to_der(&self) -> SecretDer {
        SecretDer(PrivatePkcs8KeyDer::from(self.0.serialize_der()).into())
    }

    /// For a file that only its owner may read.
    pub(super) fn to_pem(&self) -> zeroize::Zeroizing<String> {
        self.0.serialize_pem().into()
    }
}

impl SecretDer {
    pub(super) fn new(key: PrivateKeyDer<'static>) -> Self {
        Self(key)
    }

    /// Whether there is no key in it at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.secret_der().is_empty()
    }

    /// The TLS library wants a copy of its own, which it keeps in the memory of the cryptography library.
    pub(super) fn to_tls(&self) -> PrivateKeyDer<'static> {
        self.0.clone_key()
    }
}

impl PublicKeyData for SecretKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for SecretKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message)
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for SecretDer {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl fmt::Debug for SecretDer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDer(..)")
    }
}
