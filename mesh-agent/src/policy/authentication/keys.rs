//! The public keys of an issuer: a JWK set (RFC 7517), and which of its keys may have signed a token.
//!
//! Place in the walk: proves a token. Must not know: where the set came from, issuers, audiences.
//!
//! A key is used for what it is: its own type, curve, `use`, `key_ops` and `alg` must agree with the token's algorithm,
//! so that no token chooses how its signature is looked at.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::json;
use super::token::{Algorithm, Payload, Token, decoded};

/// The keys of one issuer at one moment, and the tokens that they have proved lately.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    proved: Mutex<Proved>,
}

/// Why a JWK set is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Longer than [`KeySet::MAX_BYTES`].
    #[error("a JWK set has at most {} bytes", KeySet::MAX_BYTES)]
    TooLarge,
    /// It is no JSON object with a list `keys`.
    #[error("not a JWK set: expected a JSON object with a list of keys, each name once")]
    Malformed,
    /// More than [`KeySet::MAX_KEYS`].
    #[error("a JWK set has at most {} keys", KeySet::MAX_KEYS)]
    TooMany,
    /// None of its keys is a public RSA key of 2048 to 8192 bits, P-256, P-384, P-521 or Ed25519 for signatures.
    #[error("no key of the JWK set can be used: RSA of 2048 bits or more, P-256, P-384, P-521, Ed25519")]
    NoUsableKey,
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    /// The only algorithm that it may be used with; `None` is any of its type.
    alg: Option<Algorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    /// Without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// Of a curve, so of one algorithm.
    Curve(Algorithm, ParsedPublicKey),
}

/// Tokens whose signature was verified, by their SHA-256: two generations, so that the bound costs no bookkeeping.
#[derive(Debug, Default)]
struct Proved {
    young: HashMap<[u8; 32], Arc<Payload>>,
    old: HashMap<[u8; 32], Arc<Payload>>,
}

impl KeySet {
    /// Bytes of a set.
    pub const MAX_BYTES: usize = 256 * 1024;
    /// Keys of a set.
    pub const MAX_KEYS: usize = 128;

    /// Reads a JWK set. Keys that cannot be used are left out: sets hold keys for other purposes, too.
    pub fn read(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > Self::MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let set = json::object(text).ok_or(KeySetError::Malformed)?;
        let Some(Value::Array(listed)) = set.get("keys") else {
            return Err(KeySetError::Malformed);
        };
        if listed.len() > Self::MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = listed
            .iter()
            .filter_map(|key| Key::read(key.as_object()?))
            .collect();
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey);
        }
        Ok(Self {
            keys,
            proved: Mutex::default(),
        })
    }

    /// The payload of `text`, a token that one of the keys has signed.
    ///
    /// What was proved once is not proved again, since neither keys nor token change; dates are the caller's to check.
    pub(super) fn prove(&self, text: &str, token: &Token<'_>) -> Result<Arc<Payload>, Failure> {
        let Ok(name) = <[u8; 32]>::try_from(digest(&SHA256, text.as_bytes()).as_ref()) else {
            return Err(Failure::Signature);
        };
        if let Some(known) = self.proved.lock().find(&name) {
            return Ok(known);
        }
        let mut fitting = self.keys.iter().filter(|key| key.fits(token)).peekable();
        if fitting.peek().is_none() {
            return Err(Failure::UnknownKey);
        }
        if !fitting.take(MAX_TRIES).any(|key| key.has_signed(token)) {
            return Err(Failure::Signature);
        }
        if text.len() <= MAX_KEPT_TOKEN {
            self.proved.lock().keep(name, Arc::clone(&token.payload));
        }
        Ok(Arc::clone(&token.payload))
    }
}

impl Key {
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| match jwk.get(name) {
            None => Some(None),
            Some(Value::String(text)) => Some(Some(text.as_str())),
            Some(_) => None,
        };
        let is_for_signatures = text("use")?.is_none_or(|purpose| purpose == "sig");
        let may_verify = match jwk.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.iter().any(|operation| operation == "verify"),
            Some(_) => false,
        };
        if !(is_for_signatures && may_verify) {
            return None;
        }
        let material = Material::read(text("kty")??, jwk)?;
        // An algorithm that is not known, or not of this type, makes the key one for something else.
        let alg = match text("alg")? {
            None => None,
            Some(name) => Some(Algorithm::named(name).filter(|alg| material.serves(*alg))?),
        };
        Some(Self {
            kid: text("kid")?.map(str::to_owned),
            alg,
            material,
        })
    }

    /// As in Envoy, a key without a name may be meant by any.
    fn fits(&self, token: &Token<'_>) -> bool {
        let is_named = match (&self.kid, &token.kid) {
            (Some(own), Some(wanted)) => own == wanted,
            (None, _) | (_, None) => true,
        };
        is_named && self.alg.is_none_or(|alg| alg == token.algorithm) && self.material.serves(token.algorithm)
    }

    fn has_signed(&self, token: &Token<'_>) -> bool {
        match &self.material {
            Material::Curve(_, key) => key.verify_sig(token.signed, &token.signature).is_ok(),
            Material::Rsa { n, e } => rsa(token.algorithm).is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, token.signed, &token.signature)
                    .is_ok()
            }),
        }
    }
}

impl Material {
    fn read(kty: &str, jwk: &Map<String, Value>) -> Option<Self> {
        let bytes = |name: &str| decoded(jwk.get(name)?.as_str()?);
        match kty {
            "RSA" => {
                let [n, e] = [bytes("n")?, bytes("e")?].map(without_leading_zeros);
                let is_odd = e.last().is_some_and(|last| last % 2 == 1);
                let is_sound = RSA_BITS.contains(&bits(&n)) && is_odd && e != [1] && e.len() <= 4;
                is_sound.then_some(Self::Rsa { n, e })
            }
            "EC" => {
                let (algorithm, size, verification): (_, usize, &'static dyn VerificationAlgorithm) =
                    match jwk.get("crv")?.as_str()? {
                        "P-256" => (Algorithm::Es256, 32, &ECDSA_P256_SHA256_FIXED),
                        "P-384" => (Algorithm::Es384, 48, &ECDSA_P384_SHA384_FIXED),
                        "P-521" => (Algorithm::Es512, 66, &ECDSA_P521_SHA512_FIXED),
                        _ => return None,
                    };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != size || y.len() != size {
                    return None;
                }
                // SEC 1 section 2.3.3: an uncompressed point; one that is not on the curve is refused here.
                let point = [&[4][..], &x, &y].concat();
                let key = ParsedPublicKey::new(verification, point).ok()?;
                Some(Self::Curve(algorithm, key))
            }
            "OKP" if jwk.get("crv")?.as_str()? == "Ed25519" => {
                let key = ParsedPublicKey::new(&ED25519, bytes("x")?).ok()?;
                Some(Self::Curve(Algorithm::EdDsa, key))
            }
            _ => None,
        }
    }

    fn serves(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Curve(own, _) => *own == algorithm,
            Self::Rsa { .. } => rsa(algorithm).is_some(),
        }
    }
}

impl Proved {
    fn find(&mut self, name: &[u8; 32]) -> Option<Arc<Payload>> {
        if let Some(payload) = self.young.get(name) {
            return Some(Arc::clone(payload));
        }
        let payload = self.old.remove(name)?;
        self.keep(*name, Arc::clone(&payload));
        Some(payload)
    }

    fn keep(&mut self, name: [u8; 32], payload: Arc<Payload>) {
        if self.young.len() >= MAX_PROVED / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(name, payload);
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => return None,
    })
}

fn without_leading_zeros(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}

/// Of a number without leading zero bytes.
fn bits(number: &[u8]) -> usize {
    let unused = number.first().map_or(0, |first| first.leading_zeros());
    number.len() * 8 - usize::try_from(unused).unwrap_or_default()
}

/// Less is broken in reach of many (RFC 7518 section 3.3), more serves to keep the agent busy.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Keys that are tried for one token.
const MAX_TRIES: usize = 16;
/// Tokens that are known again.
const MAX_PROVED: usize = 512;
/// Envoy's bound for a token that is worth a place among them.
const MAX_KEPT_TOKEN: usize = 4096;
