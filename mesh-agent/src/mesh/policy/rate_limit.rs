//! `RateLimitPolicy` (mesh-agent.dev/v1alpha1) in declared form: how many requests workloads take, and of whom.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::authorization::PolicyTarget;
use super::external::AuthorizerTarget;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::route::ValueMatch;

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitPolicy {
    /// `metadata.namespace`; policies of the root namespace without a target act in the whole mesh.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// The workloads whose requests are counted.
    pub target: PolicyTarget,
    /// Each of them counts for itself: a request that one refuses is refused.
    pub limits: Vec<RateLimit>,
    /// What a gRPC client is told.
    pub grpc_status: GrpcRefusal,
    /// Annotation `istio.io/dry-run: "true"`: counted, never enforced.
    pub is_dry_run: bool,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// The requests that it counts.
    pub of: LimitMatch,
    /// What tells one client from another for [`LocalLimit`]; none means that all count together.
    pub key: Vec<KeyPart>,
    /// A token bucket of this node.
    pub local: Option<LocalLimit>,
    /// A service that counts for the whole cluster.
    pub global: Option<Arc<GlobalLimit>>,
}

/// Which requests are counted; all parts must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitMatch {
    /// The path without its query.
    pub path: Option<LimitPath>,
    /// The exact method, upper case.
    pub method: Option<Arc<str>>,
    /// Headers and what they must be.
    pub headers: Vec<(HeaderName, ValueMatch)>,
}

/// `path` of a match, as Gateway API compares paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitPath {
    /// The whole path.
    Exact(Arc<str>),
    /// Whole path elements: `/abc` is `/abc`, `/abc/` and `/abc/d`, not `/abcd`.
    Prefix(Arc<str>),
}

/// What is told of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// The proven identity of who sends it.
    Source,
    /// A header.
    Header(HeaderName),
    /// The path without its query.
    Path,
    /// A claim of its verified token: names from the outside in.
    Claim(Arc<[Arc<str>]>),
}

/// A token bucket, or one for each value of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalLimit {
    /// So many tokens a `unit`, which come one by one.
    pub requests: NonZeroU32,
    /// What `requests` counts for.
    pub unit: LimitUnit,
    /// So many tokens fit in, and are there at the start.
    pub burst: NonZeroU32,
    /// Whether all values of the key have one bucket together, divided fairly among those who ask.
    pub is_divided: bool,
}

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitUnit {
    /// One second.
    Second,
    /// Sixty.
    Minute,
    /// Sixty times that.
    Hour,
}

impl LimitUnit {
    /// How long it is.
    pub fn duration(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_mins(1),
            Self::Hour => Duration::from_hours(1),
        }
    }
}

/// A service that speaks Envoy's `envoy.service.ratelimit.v3.RateLimitService`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalLimit {
    /// Where it is.
    pub target: AuthorizerTarget,
    /// Its port: of the Service, or at the address.
    pub port: u16,
    /// Tells this mesh's limits from those of others at the same service.
    pub domain: Arc<str>,
    /// What is told of a request; never empty.
    pub descriptors: Vec<Vec<DescriptorEntry>>,
    /// How long a request may wait for the answer, everything included.
    pub timeout: Duration,
    /// Whether a request is let in when there is no answer.
    pub fails_open: bool,
}

/// One key and value that the service is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorEntry {
    /// The key.
    pub key: Arc<str>,
    /// The value.
    pub value: DescriptorValue,
}

/// The value of a descriptor's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorValue {
    /// The same for all requests.
    Fixed(Arc<str>),
    /// Of the request; a descriptor of a request that has none is left out.
    Of(KeyPart),
}

/// How a gRPC client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GrpcRefusal {
    /// Status 14, as Envoy does unless it is told otherwise.
    #[default]
    Unavailable,
    /// Status 8.
    ResourceExhausted,
}
