//! One rule: whether it believes a token, and what of it the application is shown.
//!
//! Place in the walk: asked for each token of its issuer. Must not know: requests, policies.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::claims::Claims;
use super::failure::Failure;
use super::keys::KeySet;
use super::remote::RemoteKeys;
use super::token::{Payload, Token};
use crate::mesh::policy::request_authentication::{JwtRule, TokenLocation};

/// A rule with its keys.
#[derive(Debug)]
pub(super) struct Rule {
    declared: JwtRule,
    keys: Keys,
    spaced: Arc<[Arc<str>]>,
}

/// Where a rule finds its keys.
#[derive(Debug, Clone)]
pub(super) enum Keys {
    /// They cannot be read.
    None,
    Inline(Arc<KeySet>),
    Remote(Arc<RemoteKeys>),
}

impl Rule {
    pub(super) fn new(declared: &JwtRule, keys: Keys) -> Self {
        Self {
            declared: declared.clone(),
            keys,
            spaced: declared.spaced.clone().into(),
        }
    }

    pub(super) fn locations(&self) -> &[TokenLocation] {
        &self.declared.locations
    }

    pub(super) fn forwards_token(&self) -> bool {
        self.declared.forwards_token
    }

    pub(super) fn is_of(&self, payload: &Payload) -> bool {
        payload.issuer.as_deref() == Some(&*self.declared.issuer)
    }

    /// Whether the token holds at `now`, in seconds since 1970; in Envoy's order: dates, audience, signature. `on_missed`
    /// is told of keys that may be too old.
    pub(super) fn believe(
        &self,
        text: &str,
        token: &Token<'_>,
        now: f64,
        on_missed: fn(&RemoteKeys),
    ) -> Result<Claims, Failure> {
        token.payload.is_timely(now)?;
        let wanted = &self.declared.audiences;
        let is_audience = |audience: &String| wanted.iter().any(|one| **one == **audience);
        if !wanted.is_empty() && !token.payload.audiences.iter().any(is_audience) {
            return Err(Failure::Audience);
        }
        let proved = match &self.keys {
            Keys::None => Err(Failure::NoKeys),
            Keys::Inline(keys) => keys.prove(text, token),
            Keys::Remote(remote) => {
                let current = remote.current().ok_or(Failure::NoKeys);
                let proved = current.and_then(|keys| keys.prove(text, token));
                proved.inspect_err(|failure| {
                    if failure.may_be_old_keys() {
                        on_missed(remote);
                    }
                })
            }
        };
        Ok(Claims::new(proved?, Arc::clone(&self.spaced)))
    }

    /// The request headers that only this rule may set.
    pub(super) fn own_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let of_claims = self.declared.claim_headers.iter().map(|one| &one.header);
        self.declared.payload_header.iter().chain(of_claims)
    }

    /// What they are set to; a claim that no header can carry is left out.
    pub(super) fn headers_of(&self, claims: &Claims) -> Vec<(HeaderName, HeaderValue)> {
        let payload = self.declared.payload_header.iter();
        let payload = payload.map(|name| (name, Some(claims.encoded().to_owned())));
        let of_claims = self.declared.claim_headers.iter();
        let of_claims = of_claims.map(|one| (&one.header, claims.scalar(&one.claim)));
        payload
            .chain(of_claims)
            .filter_map(|(name, text)| {
                let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(text?)).ok()?;
                Some((name.clone(), value))
            })
            .collect()
    }
}
