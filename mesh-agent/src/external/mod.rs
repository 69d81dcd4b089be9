//! External authorization: what a service is asked about a request, and what its answer means; in [`quota`] the same of a
//! service that counts requests.
//!
//! Place in the walk: between the policies that say who is to be asked and the rest of them. Must not know: policies,
//! routes, sockets; who asks carries the request and brings the answer.
//!
//! Envoy's two protocols (`envoy.extensions.filters.http.ext_authz.v3`): a gRPC call, or an HTTP request much like the
//! one that it is about. Both are plain values here, made by [`check`] and read by [`decide`].

mod changes;
mod over_grpc;
mod over_http;
mod proto;
pub mod quota;
#[cfg(test)]
mod tests;
mod unary;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version};

pub use self::changes::{HeaderChange, Mode, QueryChange, RequestChanges};
use crate::grpc::{CallError, FrameError};
use crate::mesh::policy::external::{Authorizer, CheckProtocol};

/// A request that somebody must let in.
#[derive(Debug)]
pub struct Question<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path and query, as they are sent on.
    pub path: &'a str,
    /// Whom it is addressed to.
    pub authority: &'a Authority,
    /// What the client spoke.
    pub version: Version,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Who sends it.
    pub source: End<'a>,
    /// The protected workload.
    pub destination: End<'a>,
    /// What of its body is shown; `None` where nothing is.
    pub body: Option<Shown>,
    /// When it came.
    pub now: SystemTime,
}

/// A connection of bytes that are no HTTP, which somebody must let in.
#[derive(Debug)]
pub struct Contact<'a> {
    /// Who dialled.
    pub source: End<'a>,
    /// The protected workload.
    pub destination: End<'a>,
}

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// Its address.
    pub addr: SocketAddr,
    /// Its proven identity, as a SPIFFE id.
    pub principal: Option<Cow<'a, str>>,
    /// The host name of the Service that it stands behind.
    pub service: Option<String>,
}

/// What is shown of a body.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The bytes.
    pub bytes: Bytes,
    /// Whether there are more.
    pub is_partial: bool,
}

/// What was decided.
#[derive(Debug)]
pub enum Decision {
    /// The request is let in, changed in this way.
    Allowed(Changes),
    /// It is answered with this instead.
    Denied(Box<Reply>),
}

/// What becomes of a request that is let in, and of its response.
#[derive(Debug, Default)]
pub struct Changes {
    /// Of the request.
    pub request: RequestChanges,
    /// Of the response's headers.
    pub response: Vec<HeaderChange>,
}

/// The answer of an authorizer to the client; not shown in logs.
#[derive(Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, none of them of one connection only.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// To a client that can be told nothing.
    pub fn none() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Why an authorizer is not asked, or its answer is none.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The request cannot be put into a check.
    #[error("the check cannot be written")]
    Write(#[source] http::Error),
    /// The gRPC call failed.
    #[error("the call failed")]
    Call(#[from] CallError),
    /// The gRPC answer is no message of the expected kind.
    #[error("the answer cannot be read")]
    Frame(#[from] FrameError),
    /// What answered over HTTP/2 speaks no gRPC.
    #[error("the answer has no grpc status")]
    NoStatus,
    /// The answer says neither yes nor no.
    #[error("the answer has the code {0}")]
    Code(i32),
    /// The HTTP authorizer itself failed, or answered with what is no answer.
    #[error("answered with status {0}")]
    Status(StatusCode),
    /// A header or query of the answer cannot be sent on.
    #[error("the answer holds a {0} that no request can carry")]
    Unsendable(&'static str),
}

/// Makes the request by which `authorizer` is asked.
pub fn check(authorizer: &Authorizer, question: &Question<'_>) -> Result<Request<Bytes>, CheckError> {
    match &authorizer.protocol {
        CheckProtocol::Grpc(how) => over_grpc::check(authorizer, how, question),
        CheckProtocol::Http(how) => over_http::check(how, question),
    }
}

/// Makes the request by which a gRPC authorizer is asked about a connection: what Envoy's network filter asks. The other
/// protocol has no words for it.
pub fn check_connection(
    authorizer: &Authorizer,
    contact: &Contact<'_>,
) -> Result<Request<Bytes>, CheckError> {
    over_grpc::check_connection(authorizer, contact)
}

/// Whether the answer to [`check_connection`] lets the connection in; what it says of requests has no meaning.
pub fn lets_in(answer: &Response<Bytes>, trailers: Option<&HeaderMap>) -> Result<bool, CheckError> {
    over_grpc::lets_in(answer, trailers)
}

/// Reads the answer, of which the whole body, at most [`MAX_ANSWER`] bytes, and the trailers were collected.
pub fn decide(
    authorizer: &Authorizer,
    answer: Response<Bytes>,
    trailers: Option<&HeaderMap>,
) -> Result<Decision, CheckError> {
    match &authorizer.protocol {
        CheckProtocol::Grpc(_) => over_grpc::decide(&answer, trailers),
        CheckProtocol::Http(how) => over_http::decide(how, answer),
    }
}

/// Whether a header belongs to one connection, frames a message, names its target, or is between agents: nobody
/// outside has a say in it.
fn is_protected(name: &HeaderName) -> bool {
    PROTECTED.contains(&name.as_str()) || is_internal(name)
}

fn is_internal(name: &HeaderName) -> bool {
    name.as_str().starts_with(INTERNAL)
}

/// Longest answer of an authorizer that is read.
pub const MAX_ANSWER: usize = 1024 * 1024;
/// RFC 9110 section 7.6.1, framing, and the target.
const PROTECTED: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers between agents.
const INTERNAL: &str = "x-mesh-agent-";
/// Tells an authorizer whether it sees the whole body.
const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
