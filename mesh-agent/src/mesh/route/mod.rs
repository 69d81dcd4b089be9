//! Routes in declared form: what Gateway API objects and Istio's VirtualServices say, already checked, not yet compiled.

mod fault;
mod filter;
mod matches;
mod retry;
mod session;
mod stream;

use std::sync::Arc;
use std::time::Duration;

pub use self::fault::{Abort, Drawn, Fault};
pub use self::filter::{
    Cors, DirectResponse, Filters, Gate, HeaderEdits, Mirror, OriginMatch, PathRewrite, Redirect, Rewrite,
    Share,
};
pub use self::matches::{
    FieldMatch, FurtherMatch, HttpMatch, InvalidPattern, PathMatch, Pattern, ValueMatch,
};
pub use self::retry::{RetryOn, RetryPolicy};
pub use self::session::{SessionCarrier, SessionPersistence};
pub use self::stream::{NamePattern, Opening, OpeningMatch, StreamMatch, StreamRoute, StreamRule};

use crate::mesh::facts::ObjectMeta;
use crate::mesh::service::ServiceName;

/// A route of HTTP requests that attaches to Services: an HTTPRoute or a GRPCRoute as GAMMA (GEP-1294) says, or the
/// `http` part of a VirtualService.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// Its kind: of several on one port one wins.
    pub kind: RouteKind,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Where it was declared; the older route wins a tie.
    pub meta: Arc<ObjectMeta>,
    /// Whose requests it acts on.
    pub audience: Audience,
    /// The Services it attaches to; never empty.
    pub parents: Vec<RouteParent>,
    /// `spec.rules`, in order.
    pub rules: Vec<HttpRule>,
}

/// Whose requests a route acts on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Audience {
    /// GEP-1294: in the Service's own namespace it is a producer route and acts on all, elsewhere a consumer route that
    /// acts on clients of its own namespace.
    #[default]
    ByNamespace,
    /// All.
    Everybody,
    /// Clients of these namespaces.
    Namespaces(Vec<Arc<str>>),
}

/// Kinds of routes; on one port of a Service only those of the greatest kind count (GEP-1294).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Istio's `VirtualService`; Gateway API goes before it.
    Virtual,
    /// `TCPRoute`.
    Tcp,
    /// `TLSRoute`.
    Tls,
    /// `HTTPRoute`.
    Http,
    /// `GRPCRoute`.
    Grpc,
}

impl RouteKind {
    /// Whether its rules are tried in the order in which they are written, rather than the most specific one first.
    pub const fn is_as_written(self) -> bool {
        matches!(self, Self::Virtual)
    }

    /// As the API names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Virtual => "VirtualService",
            Self::Tcp => "TCPRoute",
            Self::Tls => "TLSRoute",
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// A `parentRef` of kind Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteParent {
    /// Path of the `parentRef` within its object, for reports.
    pub field: Arc<str>,
    /// The Service.
    pub service: ServiceName,
    /// `port`: only this Service port; `None` means every port.
    pub port: Option<u16>,
    /// `sectionName`: only the Service port of this name.
    pub section: Option<Arc<str>>,
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRule {
    /// `name`, for records; rules need none.
    pub name: Option<Arc<str>>,
    /// Any of these must hold; a rule without any acts on nothing.
    pub matches: Vec<HttpMatch>,
    /// What is changed on the way.
    pub filters: Filters,
    /// Cross-origin requests, where a rule says something of them.
    pub cors: Option<Cors>,
    /// What is put in on purpose.
    pub fault: Option<Fault>,
    /// What becomes of a request.
    pub action: RuleAction,
    /// `timeouts.request`; zero or absent means no limit.
    pub request_timeout: Option<Duration>,
    /// When a request is tried again; `None` means never.
    pub retry: Option<RetryPolicy>,
    /// `timeouts.backendRequest`, the limit of each attempt; zero or absent means no limit.
    pub attempt_timeout: Option<Duration>,
    /// What keeps a client at one endpoint; `None` means that each request is sent anew.
    pub session: Option<SessionPersistence>,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleAction {
    /// It goes to one of these, by weight; none means that it is answered with 500.
    Forward(Vec<RouteBackend>),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The agent answers.
    Respond(DirectResponse),
}

impl Default for HttpRule {
    /// Everything, answered with 500.
    fn default() -> Self {
        Self {
            name: None,
            matches: vec![HttpMatch::default()],
            filters: Filters::default(),
            cors: None,
            fault: None,
            action: RuleAction::Forward(Vec::new()),
            request_timeout: None,
            attempt_timeout: None,
            retry: None,
            session: None,
        }
    }
}

impl HttpRule {
    /// Where requests may go.
    pub fn backends(&self) -> &[RouteBackend] {
        match &self.action {
            RuleAction::Forward(backends) => backends,
            RuleAction::Redirect(_) | RuleAction::Respond(_) => &[],
        }
    }
}

/// A `backendRef` with its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteBackend {
    /// Path of the `backendRef` within its object, for reports.
    pub field: Arc<str>,
    /// What was named.
    pub target: BackendTarget,
    /// Share of requests, relative to the sum of the rule; zero gets none.
    pub weight: u32,
    /// What is changed of the requests that go there, after the rule's own changes.
    pub filters: Filters,
}

/// What a `backendRef` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    /// A port of a Service; whether it exists is known when the snapshot is built.
    Service(ServiceName, u16),
    /// Some endpoints of it, by the name that a DestinationRule gives them.
    Subset(ServiceName, u16, Arc<str>),
    /// A kind or form that cannot be a backend: its share of requests is answered with 500.
    Invalid,
}

impl BackendTarget {
    /// The Service, its port and the subset, if it can be a backend.
    pub fn named(&self) -> Option<(&ServiceName, u16, Option<&Arc<str>>)> {
        match self {
            Self::Service(service, port) => Some((service, *port, None)),
            Self::Subset(service, port, subset) => Some((service, *port, Some(subset))),
            Self::Invalid => None,
        }
    }
}
