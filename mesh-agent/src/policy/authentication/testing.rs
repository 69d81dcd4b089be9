//! Issuers for tests: keys, the sets that publish them, and tokens that they sign.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::claims::Claims;
use super::token::Token;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::policy::authorization::PolicyTarget;
use crate::mesh::policy::request_authentication::{JwtRule, KeySource, RequestAuthentication, TokenLocation};

pub(crate) const ISSUER: &str = "https://issuer.example";

/// An issuer with one Ed25519 key.
pub(crate) struct Signer {
    kid: &'static str,
    key: Ed25519KeyPair,
}

impl Signer {
    pub(crate) fn new(kid: &'static str) -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        Self { kid, key }
    }

    pub(crate) fn jwk(&self) -> Value {
        let x = encoded(self.key.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "use": "sig", "alg": "EdDSA", "x": x})
    }

    /// A token that claims `payload`.
    pub(crate) fn sign(&self, payload: &Value) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.kid});
        self.sign_texts(&header.to_string(), &payload.to_string())
    }

    pub(crate) fn sign_texts(&self, header: &str, payload: &str) -> String {
        signed_by(header, payload, |signed| self.key.sign(signed).as_ref().to_vec())
    }
}

pub(crate) fn signed_by(header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", encoded(header.as_bytes()), encoded(payload.as_bytes()));
    let signature = encoded(&sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

pub(crate) fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A JWK set.
pub(crate) fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A rule that takes tokens of [`ISSUER`] from where they usually are.
pub(crate) fn rule(keys: KeySource) -> JwtRule {
    JwtRule {
        issuer: ISSUER.into(),
        audiences: Vec::new(),
        keys,
        timeout: Duration::from_secs(5),
        locations: vec![
            TokenLocation::Bearer,
            TokenLocation::Parameter("access_token".into()),
        ],
        forwards_token: false,
        payload_header: None,
        claim_headers: Vec::new(),
        spaced: Vec::new(),
    }
}

pub(crate) fn inline(keys: &[Value]) -> KeySource {
    KeySource::Inline(set(keys).into())
}

/// A policy for all pods of the namespace `shop`.
pub(crate) fn policy(rules: Vec<JwtRule>) -> RequestAuthentication {
    RequestAuthentication {
        namespace: "shop".into(),
        name: "p".into(),
        meta: Arc::new(ObjectMeta::default()),
        target: PolicyTarget::Selector(BTreeMap::new()),
        rules,
        is_whole: true,
    }
}

/// What a verified token with `payload` claims.
pub(crate) fn claims(payload: &Value) -> Claims {
    let token = Signer::new("k").sign(payload);
    let payload = Token::read(&token).unwrap().payload;
    Claims::new(payload, Arc::new([]))
}
