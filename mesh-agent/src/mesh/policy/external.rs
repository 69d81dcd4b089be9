//! External authorization in declared form: a service that is asked about requests, whoever refers to it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::mesh::service::ServiceName;

/// A service that decides about requests, and how it is asked. A plain value, so that a policy or a route may name one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorizer {
    /// Where it is.
    pub target: AuthorizerTarget,
    /// Its port: of the Service, or at the address.
    pub port: u16,
    /// How long a request may wait for its decision, everything included.
    pub timeout: Duration,
    /// What becomes of a request about which it cannot be asked.
    pub on_error: OnError,
    /// How much of the request's body it is shown; `None` is nothing.
    pub body: Option<CheckedBody>,
    /// What it speaks.
    pub protocol: CheckProtocol,
}

/// Where an authorizer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizerTarget {
    /// A Service of the mesh.
    Service(ServiceName),
    /// An address.
    Addr(IpAddr),
}

impl AuthorizerTarget {
    /// The host name that it is called by.
    pub fn host(&self) -> String {
        match self {
            Self::Service(service) => service.host(),
            Self::Addr(IpAddr::V6(addr)) => format!("[{addr}]"),
            Self::Addr(addr) => addr.to_string(),
        }
    }
}

/// What becomes of a request when its authorizer is unreachable, too slow, or talks nonsense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// `failOpen: true`: as if it had been let in.
    Allow,
    /// It is refused with this status.
    Refuse(StatusCode),
}

/// `includeRequestBodyInCheck`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedBody {
    /// So many bytes are shown.
    pub max_bytes: usize,
    /// Whether of a longer body the beginning is shown; otherwise it is refused with 413.
    pub allow_partial: bool,
    /// Over gRPC: as bytes, not as text.
    pub as_bytes: bool,
}

/// What an authorizer speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckProtocol {
    /// Envoy's `envoy.service.auth.v3.Authorization/Check`.
    Grpc(GrpcCheck),
    /// A request much like the one that it is about.
    Http(Box<HttpCheck>),
}

/// What a gRPC authorizer is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrpcCheck {
    /// The only request headers that it is shown; empty is all.
    pub request_headers: Vec<NameMatch>,
}

/// How the request to an HTTP authorizer is made, and what of its answer counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpCheck {
    /// Stands before the path; empty, or begins with a slash.
    pub path_prefix: Arc<str>,
    /// Request headers that it is shown besides `Host`, `Authorization` and the length.
    pub request_headers: Vec<NameMatch>,
    /// Headers that it is sent in any case, which replace the client's.
    pub additional_headers: Vec<(HeaderName, HeaderValue)>,
    /// Of an answer that lets the request in: what is added to the request, replacing what the client sent.
    pub upstream_on_allow: Vec<NameMatch>,
    /// Of such an answer: what is added to the response.
    pub downstream_on_allow: Vec<NameMatch>,
    /// Of any other answer: what the client gets; empty is all.
    pub downstream_on_deny: Vec<NameMatch>,
}

/// How Istio writes names of headers; in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameMatch {
    /// The whole of it.
    Exact(Arc<str>),
    /// `abc*`; `*` is any.
    Prefix(Arc<str>),
    /// `*abc`.
    Suffix(Arc<str>),
    /// Any but those that describe the content of the message in which they stand (RFC 9110 section 8).
    NotOfContent,
}

impl NameMatch {
    /// Whether it is meant.
    pub fn matches(&self, name: &HeaderName) -> bool {
        match self {
            Self::Exact(whole) => name.as_str() == whole.as_ref(),
            Self::Prefix(prefix) => name.as_str().starts_with(prefix.as_ref()),
            Self::Suffix(suffix) => name.as_str().ends_with(suffix.as_ref()),
            Self::NotOfContent => !name.as_str().starts_with("content-"),
        }
    }
}
