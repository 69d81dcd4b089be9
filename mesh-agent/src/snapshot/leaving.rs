//! Who is going away, as the facts tell it.
//!
//! Place in the walk: one step of building a snapshot. Must not know: connections.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::Snapshot;
use crate::mesh::facts::Facts;
use crate::mesh::leaving::Leaving;
use crate::mesh::service::EndpointCondition;
use crate::mesh::workload::WorkloadUid;

/// A slice may lag behind another: who is ready in one of them stays.
pub(super) fn leaving(facts: &Facts) -> Leaving {
    let with = |condition: EndpointCondition| {
        let endpoints = facts.endpoints.iter();
        let such = endpoints.filter(move |endpoint| endpoint.condition == condition);
        let of_slices = facts.slices.iter().flat_map(move |slice| slice.addrs(condition));
        such.map(|endpoint| endpoint.addr).chain(of_slices).map(canonical)
    };
    let mut addrs: HashSet<SocketAddr> = with(EndpointCondition::ServingTerminating).collect();
    // Mostly there is none, and there are very many that are ready.
    if !addrs.is_empty() {
        for ready in with(EndpointCondition::Ready) {
            addrs.remove(&ready);
        }
    }
    let deleted = facts.workloads.iter().filter(|pod| pod.is_terminating);
    Leaving {
        pods: deleted.map(|pod| pod.uid.clone()).collect(),
        addrs,
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

impl Snapshot {
    /// Who is going away.
    pub fn leaving(&self) -> &Leaving {
        &self.leaving
    }

    /// Whether a pod is: it is being deleted, or the endpoints that it has all terminate.
    pub fn is_leaving(&self, uid: &WorkloadUid) -> bool {
        let Some(pod) = self.workload(uid) else {
            return true;
        };
        if self.leaving.pods.contains(uid) {
            return true;
        }
        let mut ports = self.services.inbound_ports(uid).peekable();
        let is_terminating = |port| {
            let mut addrs = pod.addrs.iter();
            addrs.any(|addr| self.leaving.addrs.contains(&SocketAddr::new(*addr, port)))
        };
        ports.peek().is_some() && ports.all(is_terminating)
    }
}
