//! Istio's `RequestAuthentication` (security.istio.io/v1) in declared form: which tokens workloads know, and what
//! becomes of them.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::authorization::PolicyTarget;
use crate::mesh::facts::ObjectMeta;

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestAuthentication {
    /// `metadata.namespace`; policies of the root namespace act in the whole mesh.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// The workloads whose requests it looks at.
    pub target: PolicyTarget,
    /// Whose tokens they know.
    pub rules: Vec<JwtRule>,
    /// Whether all of it could be read. What is not known may be where tokens come and which fields applications
    /// believe, so every request to the workloads is refused until it is right.
    pub is_whole: bool,
}

/// The tokens of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRule {
    /// What `iss` must be.
    pub issuer: Arc<str>,
    /// Of which `aud` must hold one; empty lets any in.
    pub audiences: Vec<Arc<str>>,
    /// Where the issuer's public keys are.
    pub keys: KeySource,
    /// How long a fetch of the keys may take.
    pub timeout: Duration,
    /// Where tokens are looked for; never empty.
    pub locations: Vec<TokenLocation>,
    /// Whether the application sees the token, too.
    pub forwards_token: bool,
    /// The request header that carries the verified payload, in base64url.
    pub payload_header: Option<HeaderName>,
    /// Request headers that carry claims.
    pub claim_headers: Vec<ClaimHeader>,
    /// Claims that are read as a list of words; `scope` and `permission` always are.
    pub spaced: Vec<Arc<str>>,
}

/// A claim in a request header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The header.
    pub header: HeaderName,
    /// The claim: names from the outside in.
    pub claim: Vec<Arc<str>>,
}

/// Where public keys come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// A JWK set (RFC 7517) in the policy itself.
    Inline(Arc<str>),
    /// An `http` or `https` URL of a JWK set.
    Uri(Arc<str>),
    /// The issuer, whose `OpenID` configuration names that URL.
    Issuer(Arc<str>),
    /// What was said cannot be read: no token has a key.
    Unreadable,
}

/// Where a token is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenLocation {
    /// `Authorization: Bearer TOKEN`, the scheme in any case.
    Bearer,
    /// A request header and what stands before the token there.
    Header {
        /// Its name.
        name: HeaderName,
        /// May be empty.
        prefix: Arc<str>,
    },
    /// A parameter of the query.
    Parameter(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
}
