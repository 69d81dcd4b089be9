//! The pods and objects of the lab.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::export::Export;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::identity::SpiffeId;
use crate::mesh::node::Node;
use crate::mesh::policy::{MtlsMode, PeerAuthentication};
use crate::mesh::route::{
    Audience, BackendTarget, Filters, HttpMatch, HttpRoute, HttpRule, PathMatch, RouteBackend, RouteKind,
    RouteParent, RuleAction,
};
use crate::mesh::service::{
    AppProtocol, Endpoint, EndpointCondition, Resilience, Service, ServiceName, ServicePort,
};
use crate::mesh::traffic::{
    BalancerKind, DestinationRule, EndpointPlace, HostPattern, Locality, ServiceTraffic, WrittenPolicy,
};
use crate::mesh::workload::fixture::pod;
use crate::mesh::workload::{Membership, Workload, WorkloadNaming};
use crate::pod::netns::NetnsCookie;

/// A pod of the lab: a loopback address of its own, and a namespace by name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LabPod {
    pub(super) name: &'static str,
    pub(super) node: &'static str,
    pub(super) ip: IpAddr,
    pub(super) cookie: NetnsCookie,
    membership: Membership,
}

/// The usual client.
pub(super) const WEB: LabPod = enrolled("web", "node-a", 10);
/// A server on the client's node.
pub(super) const CART: LabPod = enrolled("cart", "node-a", 20);
/// A server on the other node.
pub(super) const PAY: LabPod = enrolled("pay", "node-b", 30);
/// Another server on the other node, with an identity of its own.
pub(super) const BANK: LabPod = enrolled("bank", "node-b", 31);
/// A pod of the client's node that is enrolled and never joins.
pub(super) const LATE: LabPod = enrolled("late", "node-a", 40);
/// A pod outside the mesh.
pub(super) const LEGACY: LabPod = LabPod {
    membership: Membership::Outside,
    ..enrolled("legacy", "node-b", 50)
};

pub(super) const PODS: [LabPod; 6] = [WEB, CART, PAY, BANK, LATE, LEGACY];

const fn enrolled(name: &'static str, node: &'static str, last: u8) -> LabPod {
    LabPod {
        name,
        node,
        ip: IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)),
        #[expect(clippy::as_conversions, reason = "const, and it widens")]
        cookie: NetnsCookie(last as u64),
        membership: Membership::Enrolled,
    }
}

impl LabPod {
    pub(super) fn joins(self) -> bool {
        self.membership == Membership::Enrolled && self != LATE
    }

    pub(super) fn workload(self) -> Workload {
        Workload {
            node: self.node.into(),
            addrs: vec![self.ip],
            identity: self.identity(),
            membership: self.membership,
            naming: WorkloadNaming {
                workload: self.name.into(),
                app: self.name.into(),
                version: "v1".into(),
                canonical_name: self.name.into(),
                canonical_revision: "v1".into(),
            }
            .into(),
            ..pod("shop", self.name)
        }
    }

    pub(super) fn identity(self) -> SpiffeId {
        SpiffeId::new("cluster.local", "shop", self.name).unwrap()
    }

    pub(super) fn owning(ip: IpAddr) -> Self {
        PODS.into_iter().find(|pod| pod.ip == ip).unwrap()
    }
}

pub(super) fn meta(object: String) -> Arc<ObjectMeta> {
    Arc::new(ObjectMeta {
        origin: "test".into(),
        object: object.into(),
        created: None,
    })
}

pub(super) fn name(service: &str) -> ServiceName {
    ServiceName::new("shop", service)
}

pub(super) fn service(service: &str, vip: IpAddr, protocol: AppProtocol) -> Service {
    Service {
        name: name(service),
        meta: meta(format!("Service shop/{service}")),
        vips: vec![vip],
        is_headless: false,
        ports: vec![ServicePort {
            name: "main".into(),
            port: PORT,
            protocol,
        }],
        traffic: ServiceTraffic {
            balancer: Some(BalancerKind::RoundRobin),
            ..ServiceTraffic::default()
        },
        resilience: Resilience::default(),
    }
}

pub(super) fn endpoint(service: &str, addr: SocketAddr) -> Endpoint {
    Endpoint {
        service: name(service),
        meta: meta(format!("EndpointSlice shop/{service}")),
        port_name: "main".into(),
        addr,
        condition: EndpointCondition::Ready,
        workload: None,
        hostname: None,
        place: EndpointPlace::default(),
        labels: std::collections::BTreeMap::new(),
        weight: 1,
    }
}

/// One rule for one path prefix.
pub(super) fn rule(prefix: &str, backends: &[(&str, u32)], timeout: Option<Duration>) -> HttpRule {
    HttpRule {
        matches: vec![HttpMatch {
            path: PathMatch::Prefix(prefix.into()),
            ..HttpMatch::default()
        }],
        action: RuleAction::Forward(
            backends
                .iter()
                .map(|(service, weight)| RouteBackend {
                    field: "spec.rules[0].backendRefs[0]".into(),
                    target: BackendTarget::Service(name(service), PORT),
                    weight: *weight,
                    filters: Filters::default(),
                })
                .collect(),
        ),
        request_timeout: timeout,
        ..HttpRule::default()
    }
}

pub(super) fn route(parent: &str, rules: Vec<HttpRule>) -> HttpRoute {
    HttpRoute {
        kind: RouteKind::Http,
        namespace: "shop".into(),
        name: "route".into(),
        meta: meta("HTTPRoute shop/route".to_owned()),
        audience: Audience::ByNamespace,
        parents: vec![RouteParent {
            field: "spec.parentRefs[0]".into(),
            service: name(parent),
            port: None,
            section: None,
        }],
        rules,
    }
}

/// STRICT for the whole mesh.
pub(super) fn strict() -> PeerAuthentication {
    mesh_wide(MtlsMode::Strict)
}

/// One mode for the whole mesh.
pub(super) fn mesh_wide(mode: MtlsMode) -> PeerAuthentication {
    PeerAuthentication {
        namespace: "mesh-system".into(),
        name: "default".into(),
        meta: meta("PeerAuthentication mesh-system/default".to_owned()),
        selector: std::collections::BTreeMap::new(),
        mode: Some(mode),
        port_modes: std::collections::BTreeMap::new(),
    }
}

/// A rule for one Service.
pub(super) fn destination_rule(service: &str, policy: WrittenPolicy) -> DestinationRule {
    DestinationRule {
        meta: meta(format!("DestinationRule shop/{service}")),
        namespace: "shop".into(),
        host: HostPattern::Service(name(service)),
        policy,
        ports: Vec::new(),
        subsets: Vec::new(),
        export: Export::Everybody,
        clients: None,
    }
}

/// A node with one address.
pub(super) fn node(name: &str, addr: IpAddr) -> Node {
    Node {
        name: name.into(),
        meta: meta(format!("Node {name}")),
        addrs: vec![addr],
        locality: Locality::default(),
    }
}

/// The port of every Service.
pub(super) const PORT: u16 = 80;
