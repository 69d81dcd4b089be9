//! Every reason why the agent does not carry a connection or request, and what each looks like from outside.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;

use crate::policy::authorization::Denial;
use crate::telemetry::ResponseFlag;
use crate::transport::DialError;
use crate::transport::pool::SendError;

/// Why the agent answers instead of the application; the only error that reaches metrics and access logs.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Routes are attached to the Service and none matches.
    #[error("no route matches")]
    NoRoute,
    /// The chosen backend does not exist or cannot be one.
    #[error("the route's backend is invalid")]
    InvalidBackend,
    /// The Service has no endpoint that may take new streams.
    #[error("no endpoint is ready")]
    NoEndpoint,
    /// The Service exists and has no such port.
    #[error("the service has no such port")]
    NoSuchPort,
    /// The destination pod of this node is not captured yet, so nothing is sent to it.
    #[error("the destination pod is not enrolled yet")]
    NotEnrolled,
    /// No connection to the endpoint came about.
    #[error("cannot reach the endpoint")]
    Unreachable(#[source] Arc<DialError>),
    /// The endpoint ended the connection before it responded.
    #[error("the endpoint ended the connection before the response")]
    Broken(#[source] hyper::Error),
    /// The endpoint changed protocol although nobody asked.
    #[error("the endpoint's response is no answer to the request")]
    NoAnswer,
    /// The route's request timeout passed.
    #[error("request timed out")]
    TimedOut,
    /// The pod accepts only mTLS of the mesh, and this was plaintext.
    #[error("plaintext is refused by policy")]
    Plaintext,
    /// An AuthorizationPolicy of the destination; the words are Envoy's.
    #[error("RBAC: access denied")]
    Denied(Denial),
    /// CONNECT is not offered.
    #[error("CONNECT is not allowed")]
    ConnectMethod,
    /// Path and query are longer than any application should have to read.
    #[error("the request's target is too long")]
    TargetTooLong,
    /// The request cannot be carried on: a missing or contradictory authority.
    #[error("the request is malformed")]
    Malformed,
}

impl Refusal {
    /// The status that an HTTP client gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::InvalidBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Plaintext | Self::Denied(_) | Self::ConnectMethod => StatusCode::FORBIDDEN,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::NoEndpoint
            | Self::NoSuchPort
            | Self::NotEnrolled
            | Self::Unreachable(_)
            | Self::Broken(_)
            | Self::NoAnswer => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Envoy's response flag for metrics and access logs.
    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::NoRoute | Self::NoSuchPort | Self::Plaintext => ResponseFlag::Nr,
            Self::InvalidBackend => ResponseFlag::Nc,
            Self::NoEndpoint | Self::NotEnrolled => ResponseFlag::Uh,
            Self::Unreachable(_) => ResponseFlag::Uf,
            Self::Broken(_) | Self::NoAnswer => ResponseFlag::Uc,
            Self::TimedOut => ResponseFlag::Ut,
            Self::Denied(_) => ResponseFlag::Uaex,
            Self::ConnectMethod | Self::Malformed | Self::TargetTooLong => ResponseFlag::Dpe,
        }
    }

    /// `response_code_details` of the access log: which of several reasons behind one flag it was. Besides words of
    /// the program it holds only names that the API server has checked.
    pub fn details(&self) -> Cow<'static, str> {
        if let Self::Denied(denial) = self {
            return denial.to_string().into();
        }
        self.reason().into()
    }

    /// The reason as a word of a closed set, for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRoute => "route_not_found",
            Self::InvalidBackend => "backend_invalid",
            Self::NoEndpoint => "no_healthy_upstream",
            Self::NoSuchPort => "service_port_not_found",
            Self::NotEnrolled => "destination_not_enrolled",
            Self::Unreachable(error) => match **error {
                DialError::Socket(_) => "upstream_socket_failed",
                DialError::Connect(_) => "upstream_connect_failed",
                DialError::TimedOut => "upstream_connect_timeout",
                DialError::NoCertificate => "no_certificate",
                DialError::Tls(_) | DialError::Handshake(_) => "upstream_tls_failed",
                DialError::Http(_) => "upstream_http_handshake_failed",
            },
            Self::Broken(_) => "upstream_reset_before_response_started",
            Self::NoAnswer => "upstream_protocol_error",
            Self::TimedOut => "response_timeout",
            Self::Plaintext => "plaintext_refused",
            Self::Denied(_) => "authorization_denied",
            Self::ConnectMethod => "connect_not_allowed",
            Self::Malformed => "malformed_request",
            Self::TargetTooLong => "target_too_long",
        }
    }

    /// Whether the client's request was not understood, or asked for what would end HTTP on its connection.
    pub fn is_misunderstanding(&self) -> bool {
        self.flag() == ResponseFlag::Dpe
    }

    /// The gRPC status of the reply to a gRPC client (the gRPC project's HTTP-to-gRPC status mapping).
    pub fn grpc_status(&self) -> u32 {
        match self {
            Self::NoRoute => 12,
            Self::TimedOut => 4,
            Self::Plaintext | Self::Denied(_) | Self::ConnectMethod => 7,
            Self::InvalidBackend | Self::Malformed | Self::TargetTooLong => 13,
            Self::NoEndpoint
            | Self::NoSuchPort
            | Self::NotEnrolled
            | Self::Unreachable(_)
            | Self::Broken(_)
            | Self::NoAnswer => 14,
        }
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Dial(error) => Self::Unreachable(error),
            SendError::Broken(error) => Self::Broken(error),
        }
    }
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        Self::Unreachable(Arc::new(error))
    }
}
