//! Whether a Service or an upstream that was built anew says what its predecessor says.
//!
//! Place in the walk: the last step of building one. Must not know: what it is built from.
//!
//! Who holds a snapshot of ten thousand Services of which one changed holds one new upstream besides the old ones: two
//! snapshots are in memory at once, and connections may keep the elder for a while.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::known::{KnownService, Ports, View};
use super::upstream::{Upstream, UpstreamEndpoint};

impl KnownService {
    /// Whether this one can go on instead of `made`, whose upstreams are this one's own where nothing changed of them.
    pub(super) fn is_as(&self, made: &Self) -> bool {
        (self.is_headless, &self.exported_to) == (made.is_headless, &made.exported_to)
            && self.subset_names == made.subset_names
            && self.common.is_as(&made.common)
            && self.views.len() == made.views.len()
            && self
                .views
                .iter()
                .zip(&made.views)
                .all(|(before, now)| before.is_as(now))
    }
}

impl View {
    fn is_as(&self, made: &Self) -> bool {
        self.rule == made.rule && self.classes == made.classes && self.ports.is_as(&made.ports)
    }
}

impl Ports {
    fn is_as(&self, made: &Self) -> bool {
        let subsets = &made.subsets;
        let is_as = |(name, before)| subsets.get(name).is_some_and(|now| are_the_same(before, now));
        are_the_same(&self.whole, &made.whole)
            && self.subsets.len() == subsets.len()
            && self.subsets.iter().all(is_as)
    }
}

impl Upstream {
    /// Whether this one can go on instead of `made`, which was built to follow it. What counts and ejects is shared by
    /// both; what else it holds follows from what is compared.
    pub(super) fn is_as(&self, made: &Self) -> bool {
        let front = |one: &Self| (one.port, one.protocol, one.keeps_dialled);
        let (before, now) = (self.endpoints().iter(), made.endpoints().iter());
        front(self) == front(made)
            && self.service == made.service
            && self.port_name == made.port_name
            && self.subset == made.subset
            && self.policy == made.policy
            && self.resilience == made.resilience
            && is_one(self.usage.as_ref(), made.usage.as_ref())
            && before.len() == now.len()
            && before.zip(now).all(|(before, now)| before.is_as(now))
            && self.v4.is_as(&made.v4)
            && self.v6.is_as(&made.v6)
    }
}

impl UpstreamEndpoint {
    /// A workload that differs in anything is another one in memory.
    fn is_as(&self, made: &Self) -> bool {
        self.addr == made.addr
            && is_one(self.workload.as_ref(), made.workload.as_ref())
            && self.locality == made.locality
            && Arc::ptr_eq(&self.load, &made.load)
            && is_one(self.standing.as_ref(), made.standing.as_ref())
            && is_one(self.health.as_ref(), made.health.as_ref())
    }
}

type OfPorts = BTreeMap<u16, Arc<Upstream>>;

/// Whether both have the same ports, each with one upstream in memory.
fn are_the_same(before: &OfPorts, now: &OfPorts) -> bool {
    let mut upstreams = before.values().zip(now.values());
    before.keys().eq(now.keys()) && upstreams.all(|(before, now)| Arc::ptr_eq(before, now))
}

/// Whether both are one in memory, or neither is there.
fn is_one<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}
