//! Which connections may go from pod to pod of this node past the agent.
//!
//! Place in the walk: none; `kernel` is told ahead of it. Must not know: maps, hooks, sockets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::upstream::{Upstream, UpstreamEndpoint};
use super::{Destination, InboundPort, Snapshot};
use crate::mesh::service::AppProtocol;
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::policy::authorization::Verdict;

/// What is said of a flow between two pods of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It may go direct.
    Direct,
    /// The agent must carry a new one; one that goes direct already may go on.
    ThroughAgent,
    /// It may not go past the agent: one that does is ended. In one word, why.
    Forbidden(&'static str),
}

/// A connect that needs no agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectVerdict {
    /// Who dials.
    pub source: WorkloadUid,
    /// What it dials: the address of a Service, or of a pod.
    pub dialled: SocketAddr,
    /// Where it may end up, by the verdict's own choice; never empty.
    pub endpoints: Vec<SocketAddr>,
}

/// All verdicts of a snapshot.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DirectVerdicts {
    /// At most as many as were asked for, in a fixed order.
    pub verdicts: Vec<DirectVerdict>,
    /// Those that found no room: their connections go to the agent.
    pub left_out: usize,
}

/// How many verdicts there may be, and endpoints in each.
#[derive(Debug, Clone, Copy)]
pub struct DirectLimits {
    /// Of the node.
    pub verdicts: usize,
    /// Of one verdict.
    pub endpoints: usize,
}

/// Something that pods dial and behind which only pods of this node are.
struct Target {
    dialled: SocketAddr,
    upstream: Option<Arc<Upstream>>,
    endpoints: Vec<(SocketAddr, Arc<Workload>)>,
}

impl Snapshot {
    /// Whether policy lets `source`, a pod of this node, reach `port` of `destination`, another one, past the agent.
    ///
    /// Policies are asked here and nowhere else, for new connections and for live ones. `PeerAuthentication` has no say:
    /// bytes that never leave the kernel of the one node that knows both identities count as protected.
    pub fn may_go_direct(&self, source: &Workload, destination: &Workload, port: u16) -> Passage {
        let is_pair = source.uid != destination.uid && source.is_enrolled();
        if !is_pair || !destination.is_meshed_at(port) {
            return Passage::ThroughAgent;
        }
        let addrs = source.addrs.iter();
        let passages = addrs.map(|addr| self.is_let_past(source, *addr, destination, port));
        passages.fold(Passage::Direct, |worst, passage| match (worst, passage) {
            (Passage::Forbidden(_), _) | (Passage::ThroughAgent, Passage::Direct) => worst,
            (Passage::Direct | Passage::ThroughAgent, _) => passage,
        })
    }

    /// What `AuthorizationPolicy` says of a flow of opaque bytes. One that only needs to be recorded, or that a rule about
    /// requests might concern, is begun through the agent.
    fn is_let_past(&self, source: &Workload, addr: IpAddr, destination: &Workload, port: u16) -> Passage {
        let who = Some(&source.identity);
        match self.l4_verdict(who, addr, destination, port) {
            Verdict::Allowed => Passage::Direct,
            Verdict::NeedsRequests if self.lets_bytes_in(who, addr, destination, port) => {
                Passage::ThroughAgent
            }
            Verdict::NeedsRequests | Verdict::Denied(_) => Passage::Forbidden("authorization"),
        }
    }

    /// Whether a connection of `source` to `dialled` needs what only the agent does: HTTP, routes.
    pub fn is_opaque_to(&self, source: &Workload, dialled: SocketAddr) -> Passage {
        match self.destination(source, dialled) {
            Destination::Service(upstream) => self.is_upstream_opaque_to(source, &upstream),
            Destination::Workload { protocol, .. } => passage_of(protocol),
            Destination::NoSuchPort(_) | Destination::Unknown => Passage::ThroughAgent,
        }
    }

    /// Every connect that may go direct, between pods for which `is_present` holds: those whose hooks are in place.
    /// What is not here goes to the agent.
    pub fn direct_verdicts(
        &self,
        is_present: impl Fn(&WorkloadUid) -> bool,
        limits: DirectLimits,
    ) -> DirectVerdicts {
        let present: HashMap<&WorkloadUid, &Arc<Workload>> = self
            .local()
            .iter()
            .filter(|workload| is_present(&workload.uid))
            .map(|workload| (&workload.uid, workload))
            .collect();
        let mut targets = self.service_targets(&present, limits.endpoints);
        targets.extend(self.pod_targets(&present));
        targets.sort_by_key(|target| target.dialled);
        let mut found = DirectVerdicts::default();
        for source in self
            .local()
            .iter()
            .filter(|workload| present.contains_key(&workload.uid))
        {
            for target in targets.iter().filter(|target| self.is_open_to(source, target)) {
                if found.verdicts.len() >= limits.verdicts {
                    found.left_out += 1;
                    continue;
                }
                found.verdicts.push(DirectVerdict {
                    source: source.uid.clone(),
                    dialled: target.dialled,
                    endpoints: target.endpoints.iter().map(|(addr, _)| *addr).collect(),
                });
            }
        }
        found
    }

    fn is_open_to(&self, source: &Workload, target: &Target) -> bool {
        let is_opaque = target.upstream.as_ref().is_none_or(|upstream| {
            self.is_used_by(source, upstream)
                && self.is_upstream_opaque_to(source, upstream) == Passage::Direct
        });
        let mut endpoints = target.endpoints.iter();
        is_opaque
            && endpoints
                .all(|(addr, workload)| self.may_go_direct(source, workload, addr.port()) == Passage::Direct)
    }

    /// Whether a Service is exported to `source`, and this is how it uses it: for what a rule of its own says the agent is
    /// needed.
    fn is_used_by(&self, source: &Workload, upstream: &Arc<Upstream>) -> bool {
        let ports = self.services.seen_by(source, &upstream.service);
        let own = ports.and_then(|ports| ports.get(upstream.port, None));
        own.is_some_and(|own| Arc::ptr_eq(own, upstream))
    }

    fn is_upstream_opaque_to(&self, source: &Workload, upstream: &Upstream) -> Passage {
        if self.tables(&source.namespace, upstream).is_some() {
            return Passage::Forbidden("routed");
        }
        passage_of(upstream.protocol)
    }

    /// Service addresses behind which all endpoints that are to be chosen of now, in the address's family, are present
    /// pods, and any of them will do.
    fn service_targets(&self, present: &HashMap<&WorkloadUid, &Arc<Workload>>, most: usize) -> Vec<Target> {
        let mut targets = Vec::new();
        for (vip, service) in self.vips() {
            for upstream in self.services.of(service) {
                if upstream.protocol != AppProtocol::Tcp {
                    continue;
                }
                let open = upstream.open_to_kernel(vip.is_ipv4()).unwrap_or_default();
                let endpoints: Option<Vec<_>> = open
                    .into_iter()
                    .map(|endpoint| of_present(endpoint, present))
                    .collect();
                if let Some(endpoints) = endpoints.filter(|all| (1..=most.max(1)).contains(&all.len())) {
                    targets.push(Target {
                        dialled: SocketAddr::new(vip, upstream.port),
                        upstream: Some(Arc::clone(upstream)),
                        endpoints,
                    });
                }
            }
        }
        targets
    }

    /// The pods' own addresses, with the ports that are known to be opaque.
    fn pod_targets(&self, present: &HashMap<&WorkloadUid, &Arc<Workload>>) -> Vec<Target> {
        let mut targets = Vec::new();
        for workload in present.values() {
            let declared = self.services.inbound_ports(&workload.uid);
            let mut ports: Vec<u16> = declared.chain(AppProtocol::WELL_KNOWN_TCP).collect();
            ports.sort_unstable();
            ports.dedup();
            ports.retain(|port| {
                let InboundPort { protocol, .. } = self.inbound(workload, *port);
                protocol == AppProtocol::Tcp
            });
            for addr in &workload.addrs {
                // Facts may give an address to two pods: the one that lost it is not behind it.
                let owner = self.workload_at(*addr);
                if owner.is_none_or(|owner| owner.uid != workload.uid) {
                    continue;
                }
                targets.extend(ports.iter().map(|port| {
                    let dialled = SocketAddr::new(addr.to_canonical(), *port);
                    Target {
                        dialled,
                        upstream: None,
                        endpoints: vec![(dialled, Arc::clone(workload))],
                    }
                }));
            }
        }
        targets
    }
}

fn of_present(
    endpoint: &UpstreamEndpoint,
    present: &HashMap<&WorkloadUid, &Arc<Workload>>,
) -> Option<(SocketAddr, Arc<Workload>)> {
    let workload = present.get(&endpoint.workload.as_ref()?.uid)?;
    Some((endpoint.addr, Arc::clone(workload)))
}

/// An undeclared protocol may be HTTP: the agent looks. A flow that was opaque before that was unsaid may go on.
fn passage_of(protocol: AppProtocol) -> Passage {
    match protocol {
        AppProtocol::Tcp => Passage::Direct,
        AppProtocol::Detect => Passage::ThroughAgent,
        AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => Passage::Forbidden("http"),
    }
}
