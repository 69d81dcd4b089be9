//! One token in JWS compact form (RFC 7515 section 7.1), taken apart and not believed yet.
//!
//! Place in the walk: between where it was found and the key that proves it. Must not know: keys, rules.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::json;

/// How a token is signed; the algorithms that need a shared secret, and `none`, are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// By its name in RFC 7518, RFC 8037 and RFC 9864.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A token that is well formed.
#[derive(Debug)]
pub(super) struct Token<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    /// What is signed.
    pub(super) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
    pub(super) payload: Arc<Payload>,
}

/// The payload of a token: what it claims.
#[derive(Debug, PartialEq)]
pub(super) struct Payload {
    pub(super) issuer: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) audiences: Vec<String>,
    /// Seconds since 1970, as are the dates below.
    pub(super) expires: Option<f64>,
    pub(super) not_before: Option<f64>,
    pub(super) claims: Map<String, Value>,
    /// As it came: base64url.
    pub(super) encoded: String,
}

impl<'t> Token<'t> {
    /// Takes a token apart. Keys and addresses of keys in its header (`jwk`, `jku`, `x5c`, `x5u`) are not looked at:
    /// whoever forges a token would name his own.
    pub(super) fn read(text: &'t str) -> Result<Self, Failure> {
        if text.len() > MAX_TOKEN {
            return Err(Failure::TooLarge);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Failure::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Failure::Form)?;
        if payload.contains('.') || [header, payload, signature].iter().any(|part| part.is_empty()) {
            return Err(Failure::Form);
        }
        let header = decoded(header)
            .and_then(|header| json::object(&header))
            .ok_or(Failure::Header)?;
        if header.contains_key("crit") || header.get("b64").is_some_and(|b64| *b64 != Value::Bool(true)) {
            return Err(Failure::Critical);
        }
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .ok_or(Failure::NoAlgorithm)?;
        let algorithm = Algorithm::named(algorithm).ok_or(Failure::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Failure::Kid),
        };
        let payload = Arc::new(Payload::read(payload)?);
        let signature = decoded(signature).ok_or(Failure::SignatureForm)?;
        Ok(Self {
            algorithm,
            kid,
            signed: signed.as_bytes(),
            signature,
            payload,
        })
    }
}

impl Payload {
    fn read(encoded: &str) -> Result<Self, Failure> {
        let claims = decoded(encoded)
            .and_then(|payload| json::object(&payload))
            .ok_or(Failure::Payload)?;
        let text = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Failure::Claim),
        };
        let (issuer, subject, _id) = (text("iss")?, text("sub")?, text("jti")?);
        date(&claims, "iat")?;
        Ok(Self {
            issuer,
            subject,
            audiences: audiences(&claims)?,
            expires: date(&claims, "exp")?,
            not_before: date(&claims, "nbf")?,
            encoded: encoded.to_owned(),
            claims,
        })
    }

    /// Whether the token is valid at `now`, in seconds since 1970, as clocks that differ by a minute see it.
    pub(super) fn is_timely(&self, now: f64) -> Result<(), Failure> {
        if self.not_before.is_some_and(|from| from > now + SKEW_S) {
            return Err(Failure::NotYetValid);
        }
        if self.expires.is_some_and(|until| now > until + SKEW_S) {
            return Err(Failure::Expired);
        }
        Ok(())
    }
}

/// A list of texts, or one.
fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, Failure> {
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().ok_or(Failure::Claim)
        }
        Some(_) => Err(Failure::Claim),
    }
}

/// A `NumericDate` (RFC 7519 section 2), which may have a fraction.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Failure> {
    match claims.get(name) {
        None => Ok(None),
        Some(date) => match date.as_f64().filter(|date| date.is_finite() && *date >= 0.0) {
            Some(date) => Ok(Some(date)),
            None => Err(Failure::Claim),
        },
    }
}

/// Base64url without padding, and in its one canonical form.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Envoy takes what fits into a request's head; a token of a megabyte is an attack.
pub(super) const MAX_TOKEN: usize = 16 * 1024;
/// Envoy's and Istio's clock skew.
const SKEW_S: f64 = 60.0;
