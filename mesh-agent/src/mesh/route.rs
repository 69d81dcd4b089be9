//! Routes in declared form: what Gateway API objects say, already checked, not yet compiled.

use std::sync::Arc;
use std::time::Duration;

use crate::mesh::facts::ObjectMeta;
use crate::mesh::service::ServiceName;

/// An HTTPRoute that attaches to Services as GAMMA (GEP-1294) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// `metadata.namespace`: a route of the Service's own namespace is a producer route, any other a consumer route.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Where it was declared; the older route wins a tie.
    pub meta: Arc<ObjectMeta>,
    /// The Services it attaches to; never empty.
    pub parents: Vec<RouteParent>,
    /// `spec.rules`, in order.
    pub rules: Vec<HttpRule>,
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
    /// Any of these must hold; a rule without matches holds one match of everything.
    pub matches: Vec<HttpMatch>,
    /// Where requests go, by weight; none means that every request is answered with 500.
    pub backends: Vec<RouteBackend>,
    /// `timeouts.request`; zero or absent means no limit.
    pub request_timeout: Option<Duration>,
}

/// All parts must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMatch {
    /// The path, query excluded.
    pub path: PathMatch,
    /// All of them must hold; the first of two entries for one name counts.
    pub headers: Vec<HeaderMatch>,
    /// The exact method, upper case.
    pub method: Option<Arc<str>>,
}

/// `path` of a match; Gateway API's default is the prefix `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path, byte for byte.
    Exact(Arc<str>),
    /// Whole path elements: `/abc` matches `/abc`, `/abc/` and `/abc/d`, not `/abcd`.
    Prefix(Arc<str>),
}

/// An exact header match; the name is lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower-case header name.
    pub name: Arc<str>,
    /// The whole value, case-sensitive.
    pub value: Arc<str>,
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
}

/// What a `backendRef` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    /// A port of a Service; whether it exists is known when the snapshot is built.
    Service(ServiceName, u16),
    /// A kind or form that cannot be a backend: its share of requests is answered with 500.
    Invalid,
}
