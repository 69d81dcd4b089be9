//! Why SPIRE gave nothing.

use std::path::PathBuf;

use crate::grpc::{CallError, Code};
use crate::identity::IssueFailure;

/// Why SPIRE gave no certificate or no bundle. Every kind is tried again.
#[derive(Debug, thiserror::Error)]
pub enum SpireError {
    /// Nobody listens on the admin socket, or it may not be opened.
    #[error("cannot reach spire at {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke: the SPIRE agent has ended, for instance.
    #[error("the connection to spire at {} broke", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How; none where SPIRE ended the call without a reason.
        #[source]
        source: Option<CallError>,
    },
    /// This agent has no entry of its own in SPIRE, or its id is not among `authorized_delegates`.
    #[error("spire does not accept this agent as a delegate: {0}")]
    Denied(String),
    /// SPIRE answered something else than expected.
    #[error("spire gave no answer that can be used")]
    Answer(#[source] CallError),
    /// No registration entry matches.
    #[error("spire has no entry for selectors {selectors}")]
    NoEntry {
        /// What was asked for.
        selectors: String,
    },
    /// Registration entries match, but none has the id that was asked for.
    #[error("spire's entries for selectors {selectors} are for {found:?}, none is for {wanted}")]
    OtherIds {
        /// What was asked for.
        selectors: String,
        /// Whose the entries are, the first few.
        found: Vec<String>,
        /// The identity that was wanted.
        wanted: String,
    },
    /// The private key beside a certificate cannot be read.
    #[error("spire's private key cannot be read")]
    Key,
    /// There is no bundle for this mesh's trust domain.
    #[error("spire has no bundle for trust domain {0}")]
    NoBundle(String),
    /// The bundle of this mesh's trust domain holds something else than certificates of CAs.
    #[error("certificate {0} of spire's bundle cannot be used")]
    Bundle(usize),
}

impl SpireError {
    /// What a failed call means to who asked.
    pub(super) fn of_call(path: PathBuf, error: CallError) -> Self {
        match error {
            CallError::Connection(_) => Self::Broken {
                path,
                source: Some(error),
            },
            CallError::Refused { code, message } if code == Code::PermissionDenied.as_str() => {
                Self::Denied(message)
            }
            CallError::Refused { ref code, .. } if code == Code::Unavailable.as_str() => Self::Broken {
                path,
                source: Some(error),
            },
            CallError::Request(_)
            | CallError::NotGrpc(_)
            | CallError::Refused { .. }
            | CallError::TooLarge
            | CallError::Frame(_) => Self::Answer(error),
        }
    }

    /// For metrics.
    pub(in crate::identity) fn failure(&self) -> IssueFailure {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => IssueFailure::Unreachable,
            Self::Denied(_) => IssueFailure::Denied,
            Self::NoEntry { .. } => IssueFailure::NoEntry,
            Self::OtherIds { .. } => IssueFailure::OtherIdentity,
            Self::NoBundle(_) | Self::Bundle(_) => IssueFailure::NoBundle,
            Self::Answer(_) | Self::Key => IssueFailure::Malformed,
        }
    }
}
