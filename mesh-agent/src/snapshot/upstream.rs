//! A Service port with the endpoints that may be used now.
//!
//! Place in the walk: what a destination or a route's backend leads to; it picks the pod. Must not know: routes,
//! policies, how endpoints were read.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::RngCore;

use crate::balance::{self, Balancer, Load, Pick};
use crate::mesh::service::{AppProtocol, BalancerKind, EndpointCondition, ServiceName, ServicePort};
use crate::mesh::workload::Workload;

/// A port of a Service.
#[derive(Debug)]
pub struct Upstream {
    /// The Service.
    pub service: ServiceName,
    /// The Service's port.
    pub port: u16,
    /// The name of that port; may be empty.
    pub port_name: Arc<str>,
    /// What is spoken on it.
    pub protocol: AppProtocol,
    kind: BalancerKind,
    endpoints: Vec<Arc<UpstreamEndpoint>>,
    v4: Pool,
    v6: Pool,
}

/// One endpoint that may be used.
#[derive(Debug)]
pub struct UpstreamEndpoint {
    /// Where to dial.
    pub addr: SocketAddr,
    /// The pod behind it; `None` for addresses that are no pod's.
    pub workload: Option<Arc<Workload>>,
    load: Arc<Load>,
}

/// A chosen endpoint, with its unit of load.
#[derive(Debug)]
pub struct Picked {
    /// Where to dial, and who must answer.
    pub endpoint: Arc<UpstreamEndpoint>,
    /// To be dropped when the request or connection ends.
    pub pick: Pick,
}

/// An endpoint of the facts, its pod found and its load taken over.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) addr: SocketAddr,
    pub(super) condition: EndpointCondition,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) load: Arc<Load>,
}

/// The endpoints of one address family.
struct Pool {
    members: Vec<Arc<UpstreamEndpoint>>,
    loads: Vec<Arc<Load>>,
    balancer: Arc<dyn Balancer>,
}

impl Upstream {
    /// Picks an endpoint, of the family of the address that the client dialled if there is one of it.
    ///
    /// `None` means that no endpoint may be used: 503.
    pub fn pick(&self, dialled: IpAddr, rng: &mut dyn RngCore) -> Option<Picked> {
        let (like, unlike) = if dialled.to_canonical().is_ipv4() {
            (&self.v4, &self.v6)
        } else {
            (&self.v6, &self.v4)
        };
        like.pick(rng).or_else(|| unlike.pick(rng))
    }

    /// How it picks.
    pub fn balancer(&self) -> BalancerKind {
        self.kind
    }

    /// The endpoints that may be used, sorted by address.
    pub fn endpoints(&self) -> &[Arc<UpstreamEndpoint>] {
        &self.endpoints
    }

    /// `candidates` hold no address twice. The balancers of `previous` go on if it chose in the same way.
    pub(super) fn assemble(
        service: &ServiceName,
        port: &ServicePort,
        kind: BalancerKind,
        candidates: Vec<Candidate>,
        previous: Option<&Self>,
        rng: &mut dyn RngCore,
    ) -> Self {
        let endpoints = usable(candidates);
        let same_way = previous.filter(|previous| previous.kind == kind);
        let (members_v4, members_v6) = endpoints
            .iter()
            .cloned()
            .partition(|endpoint| endpoint.addr.is_ipv4());
        Self {
            service: service.clone(),
            port: port.port,
            port_name: Arc::clone(&port.name),
            protocol: port.protocol,
            kind,
            v4: Pool::new(members_v4, kind, same_way.map(|upstream| &upstream.v4), rng),
            v6: Pool::new(members_v6, kind, same_way.map(|upstream| &upstream.v6), rng),
            endpoints,
        }
    }
}

impl UpstreamEndpoint {
    /// Requests and connections of this node that are under way to it.
    pub fn active(&self) -> usize {
        self.load.active()
    }
}

impl Pool {
    fn new(
        members: Vec<Arc<UpstreamEndpoint>>,
        kind: BalancerKind,
        previous: Option<&Self>,
        rng: &mut dyn RngCore,
    ) -> Self {
        Self {
            loads: members
                .iter()
                .map(|endpoint| Arc::clone(&endpoint.load))
                .collect(),
            members,
            balancer: previous.map_or_else(
                || Arc::from(balance::new(kind, rng)),
                |pool| Arc::clone(&pool.balancer),
            ),
        }
    }

    fn pick(&self, rng: &mut dyn RngCore) -> Option<Picked> {
        let endpoint = self.members.get(self.balancer.pick(&self.loads, rng)?)?;
        Some(Picked {
            endpoint: Arc::clone(endpoint),
            pick: Pick::new(Arc::clone(&endpoint.load)),
        })
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("members", &self.members.len())
            .field("balancer", &self.balancer)
            .finish_non_exhaustive()
    }
}

/// Ready endpoints; when there is none, those that still serve while they terminate (KEP-1669).
fn usable(candidates: Vec<Candidate>) -> Vec<Arc<UpstreamEndpoint>> {
    let is_any_ready = candidates
        .iter()
        .any(|candidate| candidate.condition == EndpointCondition::Ready);
    let wanted = if is_any_ready {
        EndpointCondition::Ready
    } else {
        EndpointCondition::ServingTerminating
    };
    let mut endpoints: Vec<_> = candidates
        .into_iter()
        .filter(|candidate| candidate.condition == wanted)
        .map(
            |Candidate {
                 addr, workload, load, ..
             }| Arc::new(UpstreamEndpoint { addr, workload, load }),
        )
        .collect();
    endpoints.sort_by_key(|endpoint| endpoint.addr);
    endpoints
}
