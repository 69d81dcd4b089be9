//! Who is going away: pods that are being deleted, and addresses that only terminating endpoints have.
//!
//! Place in the walk: a snapshot knows it; connections to whoever it names end. Must not know: how they end.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::mesh::workload::WorkloadUid;

/// Pods and endpoints that are going away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaving {
    /// `deletionTimestamp` of the Pod is set.
    pub pods: HashSet<WorkloadUid>,
    /// Endpoints that serve while they terminate, in whatever slices hold them.
    pub addrs: HashSet<SocketAddr>,
}

impl Leaving {
    /// Whether a destination is going away.
    pub fn includes(&self, pod: Option<&WorkloadUid>, addr: SocketAddr) -> bool {
        self.addrs.contains(&addr) || pod.is_some_and(|pod| self.pods.contains(pod))
    }

    /// Those of this that were not in `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            pods: self.pods.difference(&before.pods).cloned().collect(),
            addrs: self.addrs.difference(&before.addrs).copied().collect(),
        }
    }

    /// Whether nobody is going away.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.addrs.is_empty()
    }
}
