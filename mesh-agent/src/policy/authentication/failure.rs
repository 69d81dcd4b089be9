//! Why a token is not believed, in Envoy's words.
//!
//! Place in the walk: what a client is told with 401. Must not know: requests.

/// Why a request is refused for its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    /// Longer than any token that the agent looks at.
    #[error("Jwt is too large")]
    TooLarge,
    /// No three parts.
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    /// The header is no base64url, or no JSON object whose names are unique.
    #[error("Jwt header is an invalid JSON")]
    Header,
    /// The header names no algorithm.
    #[error("Jwt header [alg] field is required and must be a string")]
    NoAlgorithm,
    /// An algorithm that proves nothing (`none`), needs a shared secret (`HS256`), or is not known.
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    /// `kid` is no text.
    #[error("Jwt header [kid] field is not a string")]
    Kid,
    /// The header demands something that the agent does not do (`crit`, `b64`).
    #[error("Jwt header [crit] is not supported")]
    Critical,
    /// The payload is no base64url, or no JSON object whose names are unique.
    #[error("Jwt payload is an invalid JSON")]
    Payload,
    /// A registered claim is of another type than RFC 7519 gives it.
    #[error("Jwt payload has a registered claim of a wrong type")]
    Claim,
    /// The signature is no base64url.
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureForm,
    /// No rule that looks where the token came knows its issuer.
    #[error("Jwt issuer is not configured")]
    Issuer,
    /// None of its audiences is wanted.
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    /// `exp` has passed.
    #[error("Jwt is expired")]
    Expired,
    /// `nbf` is still to come.
    #[error("Jwt not yet valid")]
    NotYetValid,
    /// The keys of the issuer were never fetched, or cannot be read.
    #[error("Jwks remote fetch is failed")]
    NoKeys,
    /// The issuer has no such key.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    UnknownKey,
    /// The signature is not of one of the keys.
    #[error("Jwt verification fails")]
    Signature,
    /// More tokens than anybody needs.
    #[error("Found multiple Jwt tokens")]
    TooMany,
    /// A policy of the workload cannot be read: nothing is let in by guessing.
    #[error("Jwt policy cannot be read")]
    Policy,
}

impl Failure {
    /// One word of a closed set, for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge
            | Self::Form
            | Self::Header
            | Self::NoAlgorithm
            | Self::Kid
            | Self::Payload
            | Self::Claim
            | Self::SignatureForm => "jwt_malformed",
            Self::Algorithm | Self::Critical => "jwt_unsupported",
            Self::Issuer => "jwt_unknown_issuer",
            Self::Audience => "jwt_audience",
            Self::Expired => "jwt_expired",
            Self::NotYetValid => "jwt_not_yet_valid",
            Self::NoKeys => "jwt_no_keys",
            Self::UnknownKey => "jwt_unknown_key",
            Self::Signature => "jwt_bad_signature",
            Self::TooMany => "jwt_too_many",
            Self::Policy => "jwt_policy_unreadable",
        }
    }

    /// Whether other keys of the issuer could change the answer.
    pub fn may_be_old_keys(self) -> bool {
        matches!(self, Self::NoKeys | Self::UnknownKey | Self::Signature)
    }
}
