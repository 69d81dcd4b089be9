//! How the agent reaches into a pod: its network namespace, and what the kernel remembers of its flows.
//!
//! Place in the walk: `capture` opens listeners through it, `transport` dials through it, `kernel` implements
//! its flow table. Must not know: programs and maps, protocols, policies.

pub mod flows;
pub mod legs;
pub mod netns;

use std::net::IpAddr;
use std::sync::Arc;

use crate::mesh::workload::Workload;
use crate::pod::flows::FlowTable;
use crate::pod::netns::Netns;

/// A pod of this node whose traffic this agent carries.
#[derive(Debug, Clone)]
pub struct LocalPod {
    /// The facts it was enrolled with.
    pub workload: Arc<Workload>,
    /// Its network namespace.
    pub netns: Arc<Netns>,
    /// What the kernel remembers of its flows.
    pub flows: Arc<dyn FlowTable>,
}

impl LocalPod {
    /// The pod's own address of the same family as `like`.
    pub fn addr_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.workload
            .addrs
            .iter()
            .copied()
            .find(|addr| addr.is_ipv4() == like.is_ipv4())
    }
}
