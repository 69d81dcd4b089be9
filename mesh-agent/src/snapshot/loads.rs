//! The load of each endpoint: one, however many Services it stands behind and however many snapshots know it.
//!
//! Place in the walk: asked while Services are indexed. Must not know: Services, snapshots.
//!
//! All snapshots of an agent share one table. A table for each would be the largest thing that a new snapshot holds
//! besides the one in force.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::balance::Load;
use crate::mesh::workload::WorkloadUid;

/// A new pod at an old address begins with no load.
pub(super) type LoadKey = (SocketAddr, Option<WorkloadUid>);

/// Shared by its clones.
#[derive(Debug, Default, Clone)]
pub(super) struct Loads(Arc<Mutex<HashMap<LoadKey, Arc<Load>>>>);

impl Loads {
    /// That of an endpoint, as whoever holds it counts it.
    pub(super) fn of(&self, key: LoadKey) -> Arc<Load> {
        Arc::clone(self.0.lock().entry(key).or_default())
    }

    /// Forgets those that no endpoint of any snapshot has any more.
    pub(super) fn forget_unused(&self) {
        let mut loads = self.0.lock();
        loads.retain(|_, load| Arc::strong_count(load) > 1);
        let len = loads.len();
        if len < loads.capacity() / 4 {
            loads.shrink_to(2 * len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_known_for_as_long_as_anybody_holds_it() {
        let (loads, key) = (Loads::default(), |port| {
            ((std::net::Ipv4Addr::LOCALHOST, port).into(), None)
        });
        let held = loads.of(key(1));
        for port in 2..100 {
            drop(loads.of(key(port)));
        }
        loads.clone().forget_unused();
        assert_eq!(loads.0.lock().len(), 1, "no others");
        assert!(loads.0.lock().capacity() < 50, "nor room for them");
        assert!(Arc::ptr_eq(&held, &loads.of(key(1))));
        drop(held);
        loads.forget_unused();
        assert!(loads.0.lock().is_empty());
    }
}
