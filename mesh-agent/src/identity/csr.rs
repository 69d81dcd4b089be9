//! Certificate signing requests: made by an agent, checked by the CA.

use rcgen::{CertificateParams, DistinguishedName, SanType, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::secret::SecretKey;
use crate::mesh::identity::SpiffeId;

/// Why a request is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It is not one PEM block with a certificate signing request.
    #[error("the request is not one pem block of a certificate signing request")]
    Malformed,
    /// Whoever sent it does not hold the key.
    #[error("the request's signature does not fit its key")]
    Signature,
    /// The key is weak, or of a kind that no agent uses.
    #[error("the key is neither ecdsa p-256, p-384 or p-521, nor ed25519, nor rsa of 2048 to 8192 bits")]
    Key,
}

/// A request for `identity`, as PEM. The name in it is for those who read logs: a CA decides by what it is told beside.
pub(super) fn make(identity: &SpiffeId, key: &SecretKey) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.serialize_request(key)?.pem()
}

/// The key of a request that is signed by its holder. Nothing else of it is used: no name, no extension.
pub fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, CsrError> {
    let [block] = &pem::parse_many(pem).map_err(|_| CsrError::Malformed)?[..] else {
        return Err(CsrError::Malformed);
    };
    // Old tools write the second.
    if !matches!(block.tag(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(CsrError::Malformed);
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(block.contents()) else {
        return Err(CsrError::Malformed);
    };
    let key = &request.certification_request_info.subject_pki;
    is_strong(&key.parsed().map_err(|_| CsrError::Key)?)
        .then_some(())
        .ok_or(CsrError::Key)?;
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::Key)
}

/// What the verifiers of this mesh can check; of curves `SubjectPublicKeyInfo` takes only those that it knows.
fn is_strong(key: &PublicKey<'_>) -> bool {
    match key {
        PublicKey::RSA(rsa) => (2048..=8192).contains(&rsa.key_size()),
        PublicKey::EC(_) | PublicKey::Unknown(_) => true,
        PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData};

    use super::super::testing::id;
    use super::*;

    fn request() -> (SecretKey, String) {
        let key = SecretKey::generate().unwrap();
        let pem = make(&id("web"), &key).unwrap();
        (key, pem)
    }

    #[test]
    fn a_request_yields_the_key_of_who_made_it() {
        let (key, pem) = request();
        assert_eq!(public_key(&pem).unwrap().der_bytes(), key.der_bytes());
    }

    #[test]
    fn each_kind_of_key_that_agents_use_is_taken() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::default().serialize_request(&key).unwrap();
            public_key(&request.pem().unwrap()).expect("a good key");
        }
    }

    #[test]
    fn a_request_that_somebody_else_signed_is_refused() {
        let (_, pem) = request();
        let mut der = pem::parse(&pem).unwrap().into_contents();
        let last = der.len() - 1;
        der[last] ^= 1;
        let pem = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        assert!(matches!(
            public_key(&pem),
            Err(CsrError::Signature | CsrError::Malformed)
        ));
    }

    #[test]
    fn what_is_not_one_request_is_refused() {
        let (_, pem) = request();
        let der = pem::parse(&pem).unwrap().into_contents();
        let trailing = [der.as_slice(), &[0]].concat();
        let block = |tag: &str, der: &[u8]| pem::encode(&pem::Pem::new(tag, der));
        for (what, text) in [
            ("nothing", String::new()),
            ("no pem", "hello".to_owned()),
            ("two", format!("{pem}{pem}")),
            ("a certificate", block("CERTIFICATE", &der)),
            ("trailing bytes", block("CERTIFICATE REQUEST", &trailing)),
            ("cut off", block("CERTIFICATE REQUEST", &der[..der.len() / 2])),
        ] {
            assert_eq!(public_key(&text).err(), Some(CsrError::Malformed), "{what}");
        }
    }
}
