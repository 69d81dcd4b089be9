//! Chooses one of several endpoints, and counts the work that each has been given.
//!
//! Place in the walk: after routing has named a Service port, before transport dials.
//! Must not know: addresses, pods, protocols, or how a snapshot is built; it sees loads and returns an index.

pub mod budget;
mod least_request;
mod round_robin;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngCore;

use self::least_request::LeastRequest;
use self::round_robin::RoundRobin;
use crate::mesh::service::BalancerKind;

/// One load-balancing algorithm with its own state.
///
/// Called once a request on the data path, from many threads at once: it must neither block nor allocate.
pub trait Balancer: Send + Sync + Debug {
    /// The index of the chosen member; `None` only when there are no members.
    fn pick(&self, members: &[Arc<Load>], rng: &mut dyn RngCore) -> Option<usize>;
}

/// The algorithm of a kind, in its initial state.
pub fn new(kind: BalancerKind, rng: &mut dyn RngCore) -> Box<dyn Balancer> {
    match kind {
        BalancerKind::LeastRequest => Box::new(LeastRequest),
        BalancerKind::RoundRobin => Box::new(RoundRobin::starting_anywhere(rng)),
    }
}

/// The active requests of one endpoint, counted over all pods of this node.
///
/// It outlives the snapshot that made it: requests that are under way keep counting in the next one.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicUsize,
}

impl Load {
    /// Requests or connections that are under way.
    pub fn active(&self) -> usize {
        // A balancer compares counts that move while it looks; no other memory is published through them.
        self.active.load(Ordering::Relaxed)
    }
}

/// One unit of an endpoint's load, given back when dropped.
#[derive(Debug)]
#[must_use = "dropping a pick at once gives its load back at once"]
pub struct Pick {
    load: Arc<Load>,
}

impl Pick {
    /// Takes one unit of `load`.
    pub fn new(load: Arc<Load>) -> Self {
        load.active.fetch_add(1, Ordering::Relaxed);
        Self { load }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.load.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pick_holds_one_unit_until_dropped() {
        let load = Arc::new(Load::default());
        let first = Pick::new(Arc::clone(&load));
        let second = Pick::new(Arc::clone(&load));
        assert_eq!(load.active(), 2);
        drop(first);
        assert_eq!(load.active(), 1);
        drop(second);
        assert_eq!(load.active(), 0);
    }

    #[test]
    fn nobody_is_picked_of_nobody() {
        for kind in [BalancerKind::LeastRequest, BalancerKind::RoundRobin] {
            let mut rng = rand::rng();
            assert_eq!(new(kind, &mut rng).pick(&[], &mut rng), None, "{kind:?}");
        }
    }
}
