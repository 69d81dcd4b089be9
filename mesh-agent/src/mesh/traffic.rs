//! How traffic to a Service is spread: what DestinationRule, Service and topology say, as plain data.
//!
//! Place in the walk: translation writes it, a snapshot settles it for each port. Must not know: endpoints, loads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use crate::mesh::backend_policy::{BackendTrafficPolicy, RetryConstraint};
use crate::mesh::backend_tls::{BackendTls, PeerName, WrittenTls};
pub use crate::mesh::connection_pool::{Limits, RetryShare, Reuse};
use crate::mesh::export::Export;
pub use crate::mesh::outlier_detection::{ErrorCodes, OutlierDetection};
use crate::mesh::pod_selector::PodSelector;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::route::SessionPersistence;
use crate::mesh::tunnel::TunnelTarget;
use crate::mesh::workload::Workload;
use crate::mesh::{facts::ObjectMeta, health_check::HealthCheck, service::ServiceName};

/// What is in force for one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficPolicy {
    /// Which endpoint of several.
    pub balancer: BalancerKind,
    /// Which of them first, by where they run.
    pub locality: LocalityPolicy,
    /// How slowly a new endpoint is loaded.
    pub warmup: Option<Warmup>,
    /// How much may be under way at once.
    pub limits: Limits,
    /// When an endpoint is left out for its failures.
    pub outliers: Option<OutlierDetection>,
    /// How many further attempts there may be, if a policy says so.
    pub retries: Option<RetryConstraint>,
    /// What keeps clients at one endpoint, where the rule that leads here has no such thing itself.
    pub session: Option<SessionPersistence>,
    /// The TLS that applications are spoken to in.
    pub tls: Option<Arc<BackendTls>>,
    /// How endpoints outside of the mesh are told who is behind a connection.
    pub proxied: Option<ProxyProtocol>,
    /// Where endpoints, which are forward proxies then, are asked to connect to.
    pub tunnel: Option<TunnelTarget>,
}

impl TrafficPolicy {
    /// Whether connections must be counted, or begun, by somebody.
    pub fn sees_connections(&self) -> bool {
        let is_begun = self.tls.is_some() || self.proxied.is_some() || self.tunnel.is_some();
        self.limits.see_connections() || is_begun
    }
}

/// The fields of a `trafficPolicy` that were written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WrittenPolicy {
    /// `loadBalancer`.
    pub load_balancer: Option<WrittenBalancer>,
    /// `connectionPool`.
    pub limits: Option<Limits>,
    /// `retryBudget`.
    pub retry_share: Option<RetryShare>,
    /// `outlierDetection`.
    pub outliers: Option<OutlierDetection>,
    /// `tls`.
    pub tls: Option<WrittenTls>,
    /// `proxyProtocol`; what is said of one port leaves it as it is.
    pub proxied: Option<ProxyProtocol>,
    /// `tunnel`; what is said of one port leaves it as it is.
    pub tunnel: Option<TunnelTarget>,
}

impl WrittenPolicy {
    /// This policy, and where it says nothing what `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            load_balancer: self.load_balancer.or(other.load_balancer),
            limits: self.limits.or(other.limits),
            retry_share: self.retry_share.or(other.retry_share),
            outliers: self.outliers.or(other.outliers),
            tls: self.tls.or(other.tls),
            proxied: self.proxied.or(other.proxied),
            tunnel: self.tunnel.or(other.tunnel),
        }
    }
}

/// `loadBalancer` of a `trafficPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WrittenBalancer {
    /// `simple` or `consistentHash`, if one of them is written.
    pub kind: Option<BalancerKind>,
    /// `localityLbSetting`, if it is written.
    pub locality: Option<LocalityPolicy>,
    /// `warmup`.
    pub warmup: Option<Warmup>,
}

/// Istio's DestinationRule, as far as it has an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationRule {
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// Which Services it is about.
    pub host: HostPattern,
    /// `trafficPolicy`.
    pub policy: WrittenPolicy,
    /// `trafficPolicy.portLevelSettings`: port of the Service, and what stands there instead of the whole policy.
    pub ports: Vec<(u16, WrittenPolicy)>,
    /// `subsets`, each name once.
    pub subsets: Vec<Subset>,
    /// `exportTo`: for whose clients it acts.
    pub export: Export,
    /// `workloadSelector.matchLabels`: it acts for these pods of its own namespace, and for nobody else.
    pub clients: Option<BTreeMap<String, String>>,
}

impl DestinationRule {
    /// Whether it acts for what a client sends; for `None`, whether for every client.
    pub fn acts_for(&self, client: Option<&Workload>) -> bool {
        match (client, &self.clients) {
            (None, clients) => clients.is_none() && self.export == Export::Everybody,
            (Some(client), None) => self.export.reaches(&client.namespace),
            (Some(client), Some(labels)) => {
                let carries = |(name, value): (&String, &String)| client.labels.get(name) == Some(value);
                client.namespace == self.namespace && labels.iter().all(carries)
            }
        }
    }
}

/// One of `subsets`: some endpoints of a Service under a name, to which a route may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// `name`.
    pub name: Arc<str>,
    /// `labels`: what an endpoint's pod must carry.
    pub labels: BTreeMap<String, String>,
    /// `trafficPolicy`: each part that is written stands instead of the rule's.
    pub policy: WrittenPolicy,
    /// `trafficPolicy.portLevelSettings`: port of the Service, and what stands there instead of everything else.
    pub ports: Vec<(u16, WrittenPolicy)>,
}

/// `host` of a DestinationRule; the more specific sorts first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One Service.
    Service(ServiceName),
    /// `*.NAMESPACE.svc.cluster.local`.
    Namespace(Arc<str>),
    /// `*`, `*.local`, `*.cluster.local`, `*.svc.cluster.local`.
    All,
}

impl HostPattern {
    /// Whether it is about `service`.
    pub fn matches(&self, service: &ServiceName) -> bool {
        match self {
            Self::Service(name) => name == service,
            Self::Namespace(namespace) => *namespace == service.namespace && !service.is_host(),
            Self::All => true,
        }
    }
}

/// How one of several endpoints is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum BalancerKind {
    /// Two random choices, the one with fewer active requests wins (Istio's default).
    #[default]
    LeastRequest,
    /// In turn, from a random start.
    RoundRobin,
    /// At random.
    Random,
    /// Two random choices, the one with the lower product of response time and active requests wins.
    PeakEwma,
    /// By a value of the request, so that equal values go to the same endpoint.
    ConsistentHash(ConsistentHash),
}

impl BalancerKind {
    /// What of a request decides on its endpoint.
    pub fn hash_key(&self) -> Option<&HashKey> {
        match self {
            Self::ConsistentHash(hash) => Some(&hash.key),
            Self::LeastRequest | Self::RoundRobin | Self::Random | Self::PeakEwma => None,
        }
    }
}

/// `consistentHash`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConsistentHash {
    /// What is hashed; without it in a request the endpoint is random.
    pub key: HashKey,
    /// How hashes become endpoints.
    pub table: HashTable,
    /// No endpoint is given more than this percentage (at least 100) of the average number of active requests.
    pub balance_factor: Option<u32>,
}

/// What of a request is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The value of this header, in lower case as HTTP/2 writes it.
    Header(Arc<str>),
    /// The value of a cookie.
    Cookie(HashCookie),
    /// The client's address.
    SourceIp,
    /// The value of this query parameter.
    QueryParameter(Arc<str>),
}

/// `httpCookie`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HashCookie {
    /// `name`.
    pub name: Arc<str>,
    /// `path` of a cookie that the mesh sets.
    pub path: Option<Arc<str>>,
    /// `ttl`: with it a request without the cookie is given one; zero lasts as long as the client's session.
    pub ttl: Option<Duration>,
    /// `attributes`: name, and value if it has one, of a cookie that the mesh sets.
    pub attributes: Vec<(Arc<str>, Option<Arc<str>>)>,
}

/// How hashes become endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashTable {
    /// Ketama: a ring with at least so many hashes.
    Ring(u32),
    /// Maglev: a table of this prime size.
    Maglev(u32),
}

/// Which endpoints come first by where they run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LocalityPolicy {
    /// Nothing was said: hints of the slices, else none; with outlier detection the nearest first, as in Istio.
    #[default]
    Unsaid,
    /// `enabled: false`: all alike.
    Off,
    /// `failover`: the own zone, then the own region, then the regions that are named for it, then the others.
    Failover(Vec<RegionFailover>),
    /// `failoverPriority`: the more of these labels, from the first on, agree with the own node's, the earlier.
    Priority(Vec<PriorityLabel>),
    /// `distribute`: shares by locality.
    Distribute(Vec<Distribution>),
}

/// `failover[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionFailover {
    /// The own region.
    pub from: Arc<str>,
    /// The region that stands in for it.
    pub to: Arc<str>,
}

/// A label of `failoverPriority`: those that say where an endpoint runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriorityLabel {
    /// Which label.
    pub of: PlaceLabel,
    /// `LABEL=VALUE`: this value instead of the own node's.
    pub value: Option<Arc<str>>,
}

/// A label that says where a pod runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceLabel {
    /// `topology.kubernetes.io/region`.
    Region,
    /// `topology.kubernetes.io/zone`.
    Zone,
    /// `kubernetes.io/hostname`.
    Node,
}

/// `distribute[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// For clients that run here.
    pub from: LocalityPattern,
    /// Where to, and the percentages, which sum up to 100.
    pub to: Vec<(LocalityPattern, u32)>,
}

/// `REGION/ZONE/*`, any part of which may be missing or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalityPattern {
    /// `None` for any.
    pub region: Option<Arc<str>>,
    /// `None` for any.
    pub zone: Option<Arc<str>>,
}

impl LocalityPattern {
    /// Whether it is about a place.
    pub fn matches(&self, place: &Locality) -> bool {
        let agrees = |part: &Option<Arc<str>>, own: &Option<Arc<str>>| part.is_none() || part == own;
        agrees(&self.region, &place.region) && agrees(&self.zone, &place.zone)
    }
}

/// Where something runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Option<Arc<str>>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// The node's name.
    pub node: Option<Arc<str>>,
}

/// `warmup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warmup {
    /// How long an endpoint counts as new.
    pub duration: Duration,
    /// The share of its weight with which it begins, in percent.
    pub minimum_percent: u32,
    /// `aggression` in thousandths: 1000 grows linearly, more grows faster at first.
    pub aggression_milli: u32,
}

/// What a Service itself says of its traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceTraffic {
    /// Annotation `mesh-agent.dev/load-balancer`; a DestinationRule goes before it.
    pub balancer: Option<BalancerKind>,
    /// `sessionAffinity: ClientIP`.
    pub has_affinity: bool,
    /// `internalTrafficPolicy: Local`.
    pub is_local_only: bool,
    /// `trafficDistribution`.
    pub nearest: Option<Nearest>,
    /// A ServiceEntry's `resolution: NONE`: who dials one of its addresses reaches that one.
    pub keeps_dialled: bool,
    /// Annotation `mesh-agent.dev/health-check`.
    pub health_check: Option<Arc<HealthCheck>>,
    /// `exportTo`, of a Service its annotation: to whom it is no Service, or host, at all.
    pub exported_to: Export,
    /// A ServiceEntry's `workloadSelector`.
    pub selects: Option<Arc<PodSelector>>,
    /// A ServiceEntry's `subjectAltNames`: what its servers must prove where TLS is begun with them and the rule that says so
    /// names nobody.
    pub server_names: Arc<[PeerName]>,
}

/// `trafficDistribution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nearest {
    /// `PreferSameZone`, or its older name `PreferClose`.
    Zone,
    /// `PreferSameNode`: the own node, then the own zone.
    Node,
}

/// What an EndpointSlice says of where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointPlace {
    /// Region, as only a ServiceEntry says it.
    pub region: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hints.forZones`.
    pub for_zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<Arc<str>>,
}
