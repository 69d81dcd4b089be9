//! What answers in a Service's place when it cannot, in declared form.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::mesh::service::ServiceName;

/// Annotation `mesh-agent.dev/fallback` of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// `on`: any of them is a reason.
    pub on: Vec<FallbackOn>,
    /// What answers.
    pub to: FallbackTo,
}

/// Why something else answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackOn {
    /// `unreachable`: no endpoint gave an answer: there is none, or each that was tried could not be reached, broke off or
    /// took too long, or a limit of the Service let no more to it.
    Unreachable,
    /// `gateway-error`: the last answer is 502, 503 or 504, or says `UNAVAILABLE` or `DEADLINE_EXCEEDED` in gRPC.
    GatewayError,
}

/// What answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FallbackTo {
    /// Another Service of the same namespace.
    Service {
        /// `service`.
        service: ServiceName,
        /// `port`.
        port: u16,
    },
    /// The agent.
    Answer(Arc<StaticAnswer>),
}

/// An answer that is known beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticAnswer {
    /// `status`; 200 to 599.
    pub status: StatusCode,
    /// `contentType`.
    pub content_type: HeaderValue,
    /// `body`; at most [`StaticAnswer::MAX_BODY`] bytes.
    pub body: Bytes,
    /// `grpcStatus`: what a gRPC client is told instead, 1 to 16; without it a gRPC call has no fallback.
    pub grpc_status: Option<u32>,
}

impl StaticAnswer {
    /// Every client of an outage gets it.
    pub const MAX_BODY: usize = 16 * 1024;
}
