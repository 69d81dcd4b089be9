//! Why a certificate is not signed: a word for the metric, a code for the caller, the whole reason for the log.

use super::{NotAuthenticated, PodsUnknown};
use crate::grpc::{Code, FrameError};
use crate::identity::csr::CsrError;
use crate::mesh::identity::InvalidSpiffeId;

/// Why the CA refuses.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The method is not the one that there is.
    #[error("there is no such method")]
    Method,
    /// The request is no gRPC.
    #[error("the request is no grpc over http/2 post")]
    Protocol,
    /// The body is larger than a request can be.
    #[error("the request is too large")]
    TooLarge,
    /// It did not come in time, or nobody could decide in time.
    #[error("the request took too long")]
    Deadline,
    /// The caller asks too often.
    #[error("the caller asks too often")]
    Rate,
    /// There is no bearer token.
    #[error("there is no bearer token")]
    NoToken,
    /// The token is nobody's.
    #[error("the token is not taken")]
    Token(#[source] NotAuthenticated),
    /// Tokens cannot be checked.
    #[error("tokens cannot be checked now")]
    TokenCheck(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The message cannot be read.
    #[error("the message cannot be read")]
    Message(#[from] FrameError),
    /// No workload is named: this CA signs for workloads, never for the caller itself.
    #[error("no workload is named: metadata has no text ImpersonatedIdentity")]
    NoIdentity,
    /// The workload's name is none.
    #[error("the workload asked for is not named by a spiffe id")]
    Identity(#[from] InvalidSpiffeId),
    /// The workload is of another mesh.
    #[error("the workload asked for is of another trust domain")]
    TrustDomain,
    /// Nobody can say yet what the caller's node runs.
    #[error("cannot decide now")]
    Pods(#[from] PodsUnknown),
    /// The caller's node runs no such pod.
    #[error("no pod of the mesh with this identity runs on the caller's node")]
    NotOnNode,
    /// The signing request is wrong.
    #[error("the signing request cannot be used")]
    Csr(#[from] CsrError),
    /// Signing failed.
    #[error("cannot sign")]
    Sign(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Refusal {
    /// What the caller is told in one number.
    pub fn code(&self) -> Code {
        match self {
            Self::Method => Code::Unimplemented,
            Self::Protocol | Self::Message(_) | Self::NoIdentity | Self::Identity(_) | Self::Csr(_) => {
                Code::InvalidArgument
            }
            Self::TooLarge | Self::Rate => Code::ResourceExhausted,
            Self::Deadline => Code::DeadlineExceeded,
            Self::NoToken | Self::Token(_) => Code::Unauthenticated,
            Self::TokenCheck(_) | Self::Pods(_) => Code::Unavailable,
            Self::TrustDomain | Self::NotOnNode => Code::PermissionDenied,
            Self::Sign(_) => Code::Internal,
        }
    }

    /// The metric's label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Deadline => "deadline",
            Self::Rate => "rate",
            Self::NoToken => "no_token",
            Self::Token(_) => "token",
            Self::TokenCheck(_) => "token_check",
            Self::Message(_) => "message",
            Self::NoIdentity => "no_identity",
            Self::Identity(_) => "identity",
            Self::TrustDomain => "trust_domain",
            Self::Pods(_) => "pods",
            Self::NotOnNode => "not_on_node",
            Self::Csr(_) => "csr",
            Self::Sign(_) => "sign",
        }
    }
}
