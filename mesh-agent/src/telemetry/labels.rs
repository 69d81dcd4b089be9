//! The two sides of a flow as Istio's metric labels name them.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use crate::mesh::identity::SpiffeId;
use crate::mesh::service::ServiceName;
use crate::mesh::workload::Workload;

/// Which side of the flow reports. A node agent reports both sides of a flow within its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The caller's side: outbound.
    Source,
    /// The callee's side: inbound.
    Destination,
}

impl Reporter {
    /// The value of label `reporter`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// The access log's word for it.
    pub const fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

/// How the bytes of a flow were protected: label `connection_security_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// TLS between two agents, both sides proven by certificate.
    MutualTls,
    /// Both pods are on this node and known to this one agent: bytes never left its kernel and no TLS was
    /// spoken. Not in Istio's vocabulary; saying `mutual_tls` here would be untrue.
    InProcess,
    /// Plaintext.
    None,
    /// The flow ended before it was known.
    Unknown,
}

impl Security {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::InProcess => "in_process",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// Which way a request or connection took through the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathTaken {
    /// Delivered to a pod of this node by the agent that captured it.
    SameNode,
    /// From pod to pod of this node, past the agent.
    Direct,
    /// Over mutual TLS to or from another node's agent.
    OtherNode,
    /// As plaintext to or from a peer outside of the mesh.
    Plain,
}

impl PathTaken {
    /// Every path, in the order of the variants.
    pub const ALL: [Self; 4] = [Self::SameNode, Self::Direct, Self::OtherNode, Self::Plain];

    /// The value of label `path`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SameNode => "same_node",
            Self::Direct => "direct",
            Self::OtherNode => "other_node",
            Self::Plain => "plain",
        }
    }
}

/// One side of a flow, with its hash worked out once: looking up a series hashes two numbers, not 18 strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLabels {
    hash: u64,
    text: PeerText,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PeerText {
    workload: Arc<str>,
    namespace: Arc<str>,
    principal: Arc<str>,
    app: Arc<str>,
    version: Arc<str>,
    canonical_service: Arc<str>,
    canonical_revision: Arc<str>,
    cluster: Arc<str>,
}

impl PeerLabels {
    /// The labels of a known pod. Its principal is its identity if it takes part in the mesh.
    ///
    /// For a flow whose peer did not prove that identity use [`with_principal`](Self::with_principal).
    pub fn of(workload: &Workload) -> Self {
        let principal = workload.is_enrolled().then_some(&workload.identity);
        let naming = &workload.naming;
        Self::from_text(PeerText {
            workload: or_unknown(&naming.workload),
            namespace: or_unknown(&workload.namespace),
            principal: principal_text(principal),
            app: or_unknown(&naming.app),
            version: or_unknown(&naming.version),
            canonical_service: or_unknown(&naming.canonical_name),
            canonical_revision: or_unknown(&naming.canonical_revision),
            cluster: CLUSTER.into(),
        })
    }

    /// The labels of a peer that no pod is known for, always the same ones.
    pub fn unknown() -> Arc<Self> {
        static NOBODY: LazyLock<Arc<PeerLabels>> = LazyLock::new(|| {
            let unknown: Arc<str> = UNKNOWN.into();
            Arc::new(PeerLabels::from_text(PeerText {
                workload: Arc::clone(&unknown),
                namespace: Arc::clone(&unknown),
                principal: Arc::clone(&unknown),
                app: Arc::clone(&unknown),
                version: Arc::clone(&unknown),
                canonical_service: Arc::clone(&unknown),
                canonical_revision: Arc::clone(&unknown),
                cluster: unknown,
            }))
        });
        Arc::clone(&NOBODY)
    }

    /// The same side with the identity that it proved on this flow, or with none.
    #[must_use]
    pub fn with_principal(&self, principal: Option<&SpiffeId>) -> Self {
        Self::from_text(PeerText {
            principal: principal_text(principal),
            ..self.text.clone()
        })
    }

    fn from_text(text: PeerText) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            text,
        }
    }

    /// Label `*_workload`.
    pub fn workload(&self) -> &str {
        &self.text.workload
    }

    /// Label `*_workload_namespace`.
    pub fn namespace(&self) -> &str {
        &self.text.namespace
    }

    /// Label `*_principal`.
    pub fn principal(&self) -> &str {
        &self.text.principal
    }

    /// Label `*_app`.
    pub fn app(&self) -> &str {
        &self.text.app
    }

    /// Label `*_version`.
    pub fn version(&self) -> &str {
        &self.text.version
    }

    /// Label `*_canonical_service`.
    pub fn canonical_service(&self) -> &str {
        &self.text.canonical_service
    }

    /// Label `*_canonical_revision`.
    pub fn canonical_revision(&self) -> &str {
        &self.text.canonical_revision
    }

    /// Label `*_cluster`.
    pub fn cluster(&self) -> &str {
        &self.text.cluster
    }
}

impl Hash for PeerLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// What a request and a connection have in common for metrics.
#[derive(Debug, Clone)]
pub struct FlowLabels {
    /// Which side reports.
    pub reporter: Reporter,
    /// The caller.
    pub source: Arc<PeerLabels>,
    /// The callee.
    pub destination: Arc<PeerLabels>,
    /// The Service that was called; none for a pod address or a host outside of the mesh.
    pub service: Option<ServiceName>,
    /// How the bytes were protected.
    pub security: Security,
}

impl FlowLabels {
    /// The three labels of the called Service: host, name, namespace.
    pub(super) fn service_text(&self) -> (String, &str, &str) {
        match &self.service {
            Some(service) => (service.host(), &service.name, &service.namespace),
            None => (UNKNOWN.to_owned(), UNKNOWN, UNKNOWN),
        }
    }
}

impl PartialEq for FlowLabels {
    fn eq(&self, other: &Self) -> bool {
        self.reporter == other.reporter
            && self.security == other.security
            && same(&self.source, &other.source)
            && same(&self.destination, &other.destination)
            && self.service == other.service
    }
}

impl Eq for FlowLabels {}

impl Hash for FlowLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reporter.hash(state);
        self.source.hash(state);
        self.destination.hash(state);
        self.service.hash(state);
        self.security.hash(state);
    }
}

/// Nearly always the same allocation, so that the texts are rarely compared.
fn same(one: &Arc<PeerLabels>, other: &Arc<PeerLabels>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn or_unknown(text: &Arc<str>) -> Arc<str> {
    if text.is_empty() {
        UNKNOWN.into()
    } else {
        Arc::clone(text)
    }
}

fn principal_text(principal: Option<&SpiffeId>) -> Arc<str> {
    principal.map_or_else(|| UNKNOWN.into(), |id| id.to_string().into())
}

/// Istio's value for whatever is not known.
pub(super) const UNKNOWN: &str = "unknown";

/// Istio's default cluster id, which its dashboards expect of a mesh of one cluster.
const CLUSTER: &str = "Kubernetes";
