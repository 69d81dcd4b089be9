//! Services, their ports, and the endpoints behind them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::mesh::facts::ObjectMeta;
use crate::mesh::fallback::Fallback;
use crate::mesh::hedge::Hedge;
use crate::mesh::traffic::{EndpointPlace, ServiceTraffic};
use crate::mesh::workload::WorkloadUid;

/// Namespace and name of a Service; a name with a dot is the host of a ServiceEntry, which no Service can be called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ServiceName {
    /// Joins namespace and name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Whether it is a host that a ServiceEntry declares.
    pub fn is_host(&self) -> bool {
        self.name.contains('.')
    }

    /// The cluster-wide DNS name, `NAME.NAMESPACE.svc.cluster.local`; a host is its own.
    pub fn host(&self) -> String {
        if self.is_host() {
            return self.name.as_ref().to_owned();
        }
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an application speaks on a port, as far as its manifest tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP of either version; the first bytes tell which.
    Http,
    /// HTTP/2 with prior knowledge (`kubernetes.io/h2c`, `http2`).
    Http2,
    /// gRPC, which is HTTP/2.
    Grpc,
    /// Opaque bytes: never inspected, never delayed.
    Tcp,
    /// Not said: look at the first bytes for at most the detection time.
    Detect,
}

impl AppProtocol {
    /// Ports that are opaque where no manifest describes them.
    ///
    /// SMTP, DNS, `MySQL`, `PostgreSQL`, Redis and `MongoDB`; the first three and the last are also Istio's list.
    pub const WELL_KNOWN_TCP: [u16; 6] = [25, 53, 3306, 5432, 6379, 27017];

    /// What is assumed of a port that no manifest describes: well-known protocols in which the server speaks first
    /// (or that look like nothing else) are left alone, since sniffing would delay them.
    pub fn of_port(port: u16) -> Self {
        if Self::WELL_KNOWN_TCP.contains(&port) {
            Self::Tcp
        } else {
            Self::Detect
        }
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `spec.ports[].name`, empty when there is only one unnamed port.
    pub name: Arc<str>,
    /// `spec.ports[].port`.
    pub port: u16,
    /// From `appProtocol`, else the name's prefix, else a well-known server-first port.
    pub protocol: AppProtocol,
}

/// A Service as the mesh sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// `spec.clusterIPs`; empty for a headless Service.
    pub vips: Vec<IpAddr>,
    /// `clusterIP: None`: it never has a cluster address, whereas others may not have theirs yet.
    pub is_headless: bool,
    /// TCP ports only.
    pub ports: Vec<ServicePort>,
    /// What it says of how its traffic is spread.
    pub traffic: ServiceTraffic,
    /// What it says of bad times.
    pub resilience: Resilience,
}

/// What a Service says of endpoints that are slow or gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resilience {
    /// When a request is asked of a second endpoint too.
    pub hedge: Option<Hedge>,
    /// What answers when none of its endpoints does.
    pub fallback: Option<Fallback>,
}

/// One backend address of a Service port, from an EndpointSlice or a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The Service it stands behind (label `kubernetes.io/service-name`).
    pub service: ServiceName,
    /// The slice that holds it.
    pub meta: Arc<ObjectMeta>,
    /// The Service port's name that it serves.
    pub port_name: Arc<str>,
    /// Where to dial: pod address and target port.
    pub addr: SocketAddr,
    /// The slice's conditions, nil read as the API says.
    pub condition: EndpointCondition,
    /// `targetRef.uid` when the endpoint is a Pod; without it the address names the pod.
    pub workload: Option<WorkloadUid>,
    /// `hostname` in the slice: what DNS calls it below a headless Service, as pods of a `StatefulSet` have one.
    pub hostname: Option<Arc<str>>,
    /// Where the slice says it is.
    pub place: EndpointPlace,
    /// Labels besides those of its pod, as a ServiceEntry gives them.
    pub labels: BTreeMap<String, String>,
    /// Its share of traffic against that of the others; at least 1.
    pub weight: u32,
}

/// `conditions` of an endpoint (discovery/v1; KEP-1669 for terminating ones).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointCondition {
    /// `ready` (nil counts as true).
    Ready,
    /// Not ready, but `serving` and `terminating`: used only when no endpoint is ready.
    ServingTerminating,
    /// Never used for new streams.
    NotServing,
}
