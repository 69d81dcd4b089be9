//! Every reason why the agent does not carry a connection or request, and what each looks like from outside.

use std::borrow::Cow;
use std::error::Error as _;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::external::{Reply, quota};
use crate::mesh::policy::rate_limit::GrpcRefusal;
use crate::mesh::route::Abort;
use crate::policy::authentication::Failure;
use crate::policy::authorization::Denial;
use crate::snapshot::Unpicked;
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
    /// As many requests or connections are under way as the Service's traffic policy allows.
    #[error("as many are under way as the traffic policy allows")]
    Overloaded,
    /// The pod has as many requests under way as one may have.
    #[error("the pod has too many requests under way")]
    Crowded,
    /// Bodies of the pod hold as much memory for slow readers as one may.
    #[error("the pod's bodies hold too much memory")]
    Laden,
    /// The Service's policy grants no more attempts, and the last one failed.
    #[error("no further attempt is granted")]
    OverBudget,
    /// The Service exists and has no such port.
    #[error("the service has no such port")]
    NoSuchPort,
    /// The destination pod of this node is not captured yet, so nothing is sent to it.
    #[error("the destination pod is not enrolled yet")]
    NotEnrolled,
    /// No connection to the endpoint came about.
    #[error("cannot reach the endpoint")]
    Unreachable(#[source] Arc<DialError>),
    /// The endpoint ended the connection before it responded, or sent what is no response.
    #[error("the endpoint ended the connection before the response")]
    Broken(#[source] hyper::Error),
    /// The endpoint changed protocol although nobody asked, did not although it says so, or speaks another.
    #[error("the endpoint's response is no answer to the request")]
    NoAnswer,
    /// The route's request timeout passed.
    #[error("request timed out")]
    TimedOut,
    /// Nothing of it moved for too long before its response began.
    #[error("nothing moved for too long")]
    Silent,
    /// The pod accepts only mTLS of the mesh, and this was plaintext.
    #[error("plaintext is refused by policy")]
    Plaintext,
    /// An AuthorizationPolicy of the destination; the words are Envoy's.
    #[error("RBAC: access denied")]
    Denied(Denial),
    /// A token of the request does not hold; the words are Envoy's.
    #[error("{}", .0.failure)]
    Unauthenticated(Unauthenticated),
    /// A certificate on which the connection rests was called back.
    #[error("a certificate of the connection was revoked")]
    Revoked,
    /// A CUSTOM policy of the destination: its provider did not let the request in.
    #[error("external authorization: {0}")]
    External(Unapproved),
    /// A `RateLimitPolicy` of the destination.
    #[error("{}", .0.by.reason())]
    RateLimited(Box<Limited>),
    /// A rate limit service gave no answer, and its limit does not fail open.
    #[error("rate_limiter_error")]
    RateLimiterFailed,
    /// A route's fault; the words are Envoy's.
    #[error("fault filter abort")]
    Aborted(Abort),
    /// CONNECT is not offered.
    #[error("CONNECT is not allowed")]
    ConnectMethod,
    /// Extended CONNECT (RFC 8441) is offered for WebSocket only.
    #[error("CONNECT is not implemented for this protocol")]
    ConnectProtocol,
    /// Path and query are longer than any application should have to read.
    #[error("the request's target is too long")]
    TargetTooLong,
    /// The request cannot be carried on: a missing or contradictory authority.
    #[error("the request is malformed")]
    Malformed,
}

/// A token that does not hold.
#[derive(Debug)]
pub struct Unauthenticated {
    /// Why.
    pub failure: Failure,
    /// What the client is asked for: the value of `www-authenticate`.
    pub challenge: HeaderValue,
}

/// A request that is over a limit.
#[derive(Debug)]
pub struct Limited {
    /// Who counted.
    pub by: Limiter,
    /// When it is worth to try again, if that is known.
    pub retry_after_s: Option<u64>,
    /// What a gRPC client is told.
    pub grpc: GrpcRefusal,
    /// What the client is told besides.
    pub reply: quota::Reply,
}

/// Who counts requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limiter {
    /// The agent, for its node.
    Node,
    /// A service, for the cluster.
    Service,
}

impl Limiter {
    /// In Envoy's words.
    fn reason(self) -> &'static str {
        match self {
            Self::Node => "local_rate_limited",
            Self::Service => "request_rate_limited",
        }
    }
}

/// Why an extension provider did not let a request in.
#[derive(Debug, thiserror::Error)]
pub enum Unapproved {
    /// It said no, and what the client is told.
    #[error("denied")]
    Denied(Box<Reply>),
    /// There is no decision of it: unreachable, too slow, or its answer is none; and what the client is told.
    #[error("no decision")]
    Unanswered(StatusCode),
    /// It must see the whole body, which is larger than it is shown.
    #[error("the body is too large")]
    BodyTooLarge,
    /// The client did not send the part of the body that it must see, or too many others did not.
    #[error("the body came too slowly")]
    BodyTooSlow,
}

impl Unapproved {
    /// The status that an HTTP client gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Denied(reply) => reply.status,
            Self::Unanswered(status) => *status,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// In Envoy's words.
    fn reason(&self) -> &'static str {
        match self {
            Self::Denied(_) => "ext_authz_denied",
            Self::Unanswered(_) => "ext_authz_error",
            Self::BodyTooLarge => "request_payload_too_large",
            Self::BodyTooSlow => "request_body_timeout",
        }
    }

    fn grpc_status(&self) -> u32 {
        of_status(self.status())
    }
}

impl Refusal {
    /// Whether a policy of the destination says no: another endpoint would not say anything else.
    pub fn is_of_policy(&self) -> bool {
        matches!(
            self,
            Self::Plaintext
                | Self::Denied(_)
                | Self::Unauthenticated(_)
                | Self::External(_)
                | Self::RateLimiterFailed
        )
    }

    /// The status that an HTTP client gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::InvalidBackend | Self::RateLimiterFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::TimedOut | Self::Silent => StatusCode::GATEWAY_TIMEOUT,
            Self::Plaintext | Self::Denied(_) | Self::Revoked | Self::ConnectMethod => StatusCode::FORBIDDEN,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::External(unapproved) => unapproved.status(),
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::ConnectProtocol => StatusCode::NOT_IMPLEMENTED,
            Self::Aborted(Abort::Http(status)) => *status,
            Self::NoAnswer => StatusCode::BAD_GATEWAY,
            Self::Broken(error) if is_garbled(error) => StatusCode::BAD_GATEWAY,
            // As Envoy: who asks for a gRPC status gets it in a field of its own.
            Self::Aborted(Abort::Grpc(_)) => StatusCode::OK,
            Self::NoEndpoint
            | Self::Overloaded
            | Self::Crowded
            | Self::Laden
            | Self::OverBudget
            | Self::NoSuchPort
            | Self::NotEnrolled
            | Self::Unreachable(_)
            | Self::Broken(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Envoy's response flag for metrics and access logs.
    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::NoRoute | Self::NoSuchPort | Self::Plaintext => ResponseFlag::Nr,
            Self::InvalidBackend => ResponseFlag::Nc,
            Self::NoEndpoint | Self::NotEnrolled => ResponseFlag::Uh,
            Self::Overloaded => ResponseFlag::Uo,
            Self::Crowded | Self::Laden => ResponseFlag::Om,
            Self::OverBudget => ResponseFlag::Urx,
            Self::Unreachable(_) => ResponseFlag::Uf,
            Self::NoAnswer => ResponseFlag::Upe,
            Self::Broken(error) if is_garbled(error) => ResponseFlag::Upe,
            Self::Broken(_) => ResponseFlag::Uc,
            Self::TimedOut => ResponseFlag::Ut,
            Self::Silent => ResponseFlag::Si,
            Self::Denied(_) | Self::Unauthenticated(_) | Self::Revoked | Self::External(_) => {
                ResponseFlag::Uaex
            }
            Self::RateLimited(_) => ResponseFlag::Rl,
            Self::RateLimiterFailed => ResponseFlag::Rlse,
            Self::Aborted(_) => ResponseFlag::Fi,
            Self::ConnectMethod | Self::ConnectProtocol | Self::Malformed | Self::TargetTooLong => {
                ResponseFlag::Dpe
            }
        }
    }

    /// `response_code_details` of the access log: which reason of a flag's. Our words, and names that an API server has checked.
    pub fn details(&self) -> Cow<'static, str> {
        if let Self::Denied(denial) = self {
            return denial.to_string().into();
        }
        if let Self::Unauthenticated(unauthenticated) = self {
            let why = unauthenticated.failure.to_string().replace(' ', "_");
            return format!("jwt_authn_access_denied{{{why}}}").into();
        }
        if let Self::Unreachable(error) = self
            && let DialError::NoTunnel(status) = **error
        {
            return format!("{}{{{}}}", self.reason(), status.as_u16()).into();
        }
        self.reason().into()
    }

    /// The reason as a word of a closed set, for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRoute => "route_not_found",
            Self::InvalidBackend => "backend_invalid",
            Self::NoEndpoint => "no_healthy_upstream",
            Self::Overloaded => "overflow",
            Self::Crowded => "too_many_requests_of_pod",
            Self::Laden => "too_many_bytes_of_pod",
            Self::OverBudget => "retry_budget_exceeded",
            Self::NoSuchPort => "service_port_not_found",
            Self::NotEnrolled => "destination_not_enrolled",
            Self::Unreachable(error) => match **error {
                DialError::Socket(_) => "upstream_socket_failed",
                DialError::Connect(_) => "upstream_connect_failed",
                DialError::TimedOut => "upstream_connect_timeout",
                DialError::NoCertificate => "no_certificate",
                DialError::Crowded(_) => "too_many_handshakes",
                DialError::Tls(_) | DialError::Backend(_) | DialError::Handshake(_) => "upstream_tls_failed",
                DialError::NotHttp2 => "upstream_protocol_error",
                DialError::Http(_) => "upstream_http_handshake_failed",
                DialError::NoTunnel(_) => "tunnel_refused",
                DialError::Overflow => "overflow",
            },
            Self::Broken(error) if is_garbled(error) => "upstream_protocol_error",
            Self::Broken(_) => "upstream_reset_before_response_started",
            Self::NoAnswer => "upstream_protocol_error",
            Self::TimedOut => "response_timeout",
            Self::Silent => STREAM_IDLE,
            Self::Plaintext => "plaintext_refused",
            Self::Denied(_) => "authorization_denied",
            Self::Unauthenticated(unauthenticated) => unauthenticated.failure.as_str(),
            Self::Revoked => "certificate_revoked",
            Self::External(unapproved) => unapproved.reason(),
            Self::RateLimited(limited) => limited.by.reason(),
            Self::RateLimiterFailed => "rate_limiter_error",
            Self::Aborted(_) => "fault_filter_abort",
            Self::ConnectMethod => "connect_not_allowed",
            Self::ConnectProtocol => "connect_protocol_not_implemented",
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
            Self::NoRoute | Self::ConnectProtocol => 12,
            Self::TimedOut | Self::Silent => 4,
            Self::Unauthenticated(_) => 16,
            Self::Plaintext | Self::Denied(_) | Self::Revoked | Self::ConnectMethod => 7,
            Self::External(unapproved) => unapproved.grpc_status(),
            Self::InvalidBackend | Self::Malformed | Self::TargetTooLong => 13,
            Self::RateLimited(limited) => match limited.grpc {
                GrpcRefusal::Unavailable => 14,
                GrpcRefusal::ResourceExhausted => 8,
            },
            Self::RateLimiterFailed => of_status(StatusCode::INTERNAL_SERVER_ERROR),
            Self::Aborted(Abort::Grpc(code)) => *code,
            Self::Aborted(Abort::Http(status)) => of_status(*status),
            Self::NoEndpoint
            | Self::Overloaded
            | Self::Crowded
            | Self::Laden
            | Self::OverBudget
            | Self::NoSuchPort
            | Self::NotEnrolled
            | Self::Unreachable(_)
            | Self::Broken(_)
            | Self::NoAnswer => 14,
        }
    }
}

/// Whether the endpoint ended it by bytes that are no HTTP, or broke HTTP/2's rules, as Envoy tells it apart.
fn is_garbled(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    error.is_parse() || cause.is_some_and(h2::Error::is_library)
}

/// The gRPC status that stands for an HTTP status (the gRPC project's HTTP-to-gRPC status mapping).
fn of_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 | 431 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Dial(error) if matches!(*error, DialError::Overflow) => Self::Overloaded,
            SendError::Dial(error) if matches!(*error, DialError::NotHttp2) => Self::NoAnswer,
            SendError::Dial(error) => Self::Unreachable(error),
            SendError::Broken(error) => Self::Broken(error),
        }
    }
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        SendError::Dial(Arc::new(error)).into()
    }
}

impl From<Unpicked> for Refusal {
    fn from(unpicked: Unpicked) -> Self {
        match unpicked {
            Unpicked::NoEndpoint => Self::NoEndpoint,
            Unpicked::Overflow => Self::Overloaded,
        }
    }
}

/// In Envoy's words: nothing moves in a request.
pub(super) const STREAM_IDLE: &str = "stream_idle_timeout";
