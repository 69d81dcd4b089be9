//! Destinations that went away, and what ends the connections to them.
//!
//! A connection belongs to the time at which it was opened: what was there when its destination began to go away takes
//! nothing new and is cut in the end; what is opened afterwards, because nobody else is left, is like any other.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::mesh::leaving::Leaving;
use crate::mesh::workload::WorkloadUid;

/// What went away so far, as seen from one pod.
#[derive(Debug, Default)]
pub struct Departures {
    count: AtomicU64,
    recent: Mutex<VecDeque<(u64, Arc<Leaving>)>>,
    cuts: Mutex<HashMap<Destination, Cut>>,
}

type Destination = (Option<WorkloadUid>, SocketAddr);

/// Ends the connections that hold it.
pub type Cut = Arc<CancellationToken>;

impl Departures {
    /// How often somebody went away so far.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether a destination went away since [`Self::count`] was `count`; what is too long ago counts as yes.
    pub(super) fn has_left_since(&self, count: u64, pod: Option<&WorkloadUid>, addr: SocketAddr) -> bool {
        if self.count() == count {
            return false;
        }
        let recent = self.recent.lock();
        let is_forgotten = recent.front().is_some_and(|(first, _)| *first > count + 1);
        is_forgotten
            || recent
                .iter()
                .any(|(at, leaving)| *at > count && leaving.includes(pod, addr))
    }

    /// What a connection that is opened now has to be ended by.
    pub fn cut_of(&self, pod: Option<WorkloadUid>, addr: SocketAddr) -> Cut {
        Arc::clone(self.cuts.lock().entry((pod, addr)).or_default())
    }

    /// Notes who goes away; what is to be cut when their time is over.
    pub(super) fn leave(&self, leaving: &Arc<Leaving>) -> Vec<Cut> {
        let mut recent = self.recent.lock();
        let count = self.count() + 1;
        recent.push_back((count, Arc::clone(leaving)));
        if recent.len() > REMEMBERED {
            recent.pop_front();
        }
        self.count.store(count, Ordering::Release);
        drop(recent);
        let mut cuts = self.cuts.lock();
        let going = cuts.extract_if(|(pod, addr), _| leaving.includes(pod.as_ref(), *addr));
        going.map(|(_, cut)| cut).collect()
    }

    /// Forgets destinations to which there is no connection.
    pub(super) fn sweep(&self) {
        self.cuts.lock().retain(|_, cut| Arc::strong_count(cut) > 1);
    }
}

/// Departures that are remembered by name. A request would have to last longer than so many for its connection to be
/// closed without need.
const REMEMBERED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn going(last: u8) -> Arc<Leaving> {
        Arc::new(Leaving {
            addrs: [addr(last)].into(),
            ..Leaving::default()
        })
    }

    #[test]
    fn who_left_since_is_known_and_others_are_not_taken_for_them() {
        let departures = Departures::default();
        let before = departures.count();
        departures.leave(&going(1));
        let between = departures.count();
        departures.leave(&going(2));
        for (count, last, expected) in [
            (before, 1, true),
            (before, 2, true),
            (before, 3, false),
            (between, 1, false),
            (between, 2, true),
            (departures.count(), 2, false),
        ] {
            let has_left = departures.has_left_since(count, None, addr(last));
            assert_eq!(has_left, expected, "{count} {last}");
        }
        for _ in 0..REMEMBERED {
            departures.leave(&going(4));
        }
        assert!(departures.has_left_since(before, None, addr(3)));
        assert!(!departures.has_left_since(departures.count() - 1, None, addr(3)));
    }

    #[test]
    fn what_is_opened_afterwards_is_not_cut() {
        let departures = Departures::default();
        let pod = Some(WorkloadUid::new("a"));
        let (old, other) = (
            departures.cut_of(pod.clone(), addr(1)),
            departures.cut_of(None, addr(2)),
        );
        let leaving = Leaving {
            pods: [WorkloadUid::new("a")].into(),
            ..Leaving::default()
        };
        let cuts = departures.leave(&Arc::new(leaving));
        let new = departures.cut_of(pod, addr(1));
        for cut in &cuts {
            cut.cancel();
        }
        assert!(old.is_cancelled());
        assert!(!other.is_cancelled() && !new.is_cancelled());
        drop((old, new));
        departures.sweep();
        assert_eq!(departures.cuts.lock().len(), 1);
    }
}
