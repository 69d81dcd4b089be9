//! What a verified token says of the client, in the forms that policies ask for.
//!
//! Place in the walk: made by a verification, asked by authorization. Must not know: how it was verified.

use std::sync::Arc;

use serde_json::Value;

use super::token::Payload;

/// The claims of a verified token; a clone shares them.
#[derive(Debug, Clone)]
pub struct Claims {
    payload: Arc<Payload>,
    /// Top-level claims that are lists of words.
    spaced: Arc<[Arc<str>]>,
    principal: Option<String>,
}

impl Claims {
    pub(super) fn new(payload: Arc<Payload>, spaced: Arc<[Arc<str>]>) -> Self {
        let principal = match (payload.issuer.as_deref(), payload.subject.as_deref()) {
            (Some(issuer), Some(subject)) if !issuer.is_empty() && !subject.is_empty() => {
                Some([issuer, "/", subject].concat())
            }
            (_, _) => None,
        };
        Self {
            payload,
            spaced,
            principal,
        }
    }

    /// `ISSUER/SUBJECT`; `None` for a token that does not say both.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// `aud`.
    pub fn audiences(&self) -> &[String] {
        &self.payload.audiences
    }

    /// `azp`: to whom the token was issued.
    pub fn presenter(&self) -> Option<&str> {
        self.payload.claims.get("azp").and_then(Value::as_str)
    }

    /// Whether `is` holds for one of the texts of the claim at `path`, names from the outside in; a claim that is no
    /// text and no list of texts has none.
    pub fn any_text(&self, path: &[Arc<str>], mut is: impl FnMut(&str) -> bool) -> bool {
        match self.claim(path) {
            Some(Value::String(words)) if self.is_spaced(path) => words.split(' ').any(is),
            Some(Value::String(text)) => is(text),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(is),
            Some(_) | None => false,
        }
    }

    /// The claim at `path` as one text, if it is a text, an integer or a boolean.
    pub fn scalar(&self, path: &[Arc<str>]) -> Option<String> {
        match self.claim(path)? {
            Value::String(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(number) if !number.is_f64() => Some(number.to_string()),
            Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The payload as it came: base64url.
    pub(super) fn encoded(&self) -> &str {
        &self.payload.encoded
    }

    fn claim(&self, path: &[Arc<str>]) -> Option<&Value> {
        let (first, inner) = path.split_first()?;
        let outer = self.payload.claims.get(first.as_ref())?;
        inner
            .iter()
            .try_fold(outer, |value, name| value.get(name.as_ref()))
    }

    fn is_spaced(&self, path: &[Arc<str>]) -> bool {
        let [name] = path else { return false };
        ["scope", "permission"].contains(&name.as_ref()) || self.spaced.contains(name)
    }
}
