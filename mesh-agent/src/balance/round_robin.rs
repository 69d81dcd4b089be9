//! Round robin: each member in turn, from a random start so that the nodes of a cluster do not march in step.
//!
//! Place in the walk: one of the algorithms behind [`Balancer`]. Must not know: loads; every member counts alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::{Rng, RngCore};

use super::{Balancer, Load};

/// The turn that comes next; it wraps, and is kept when the members change.
#[derive(Debug)]
pub(super) struct RoundRobin {
    turn: AtomicUsize,
}

impl RoundRobin {
    pub(super) fn starting_anywhere(rng: &mut dyn RngCore) -> Self {
        // 32 bits are start enough, and leave the counter a lifetime before it wraps.
        Self {
            turn: AtomicUsize::new(usize::try_from(rng.random::<u32>()).unwrap_or_default()),
        }
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, members: &[Arc<Load>], _rng: &mut dyn RngCore) -> Option<usize> {
        self.turn
            .fetch_add(1, Ordering::Relaxed)
            .checked_rem(members.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    proptest! {
        #[test]
        fn picks_each_member_once_a_round(seed: u64, members in 1..40_usize, rounds in 1..5_usize) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let loads: Vec<_> = (0..members).map(|_| Arc::new(Load::default())).collect();
            let balancer = RoundRobin::starting_anywhere(&mut rng);
            for _ in 0..rounds {
                let mut round: Vec<_> =
                    (0..members).map(|_| balancer.pick(&loads, &mut rng).unwrap()).collect();
                round.sort_unstable();
                prop_assert_eq!(round, (0..members).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn starts_at_different_members_with_different_seeds() {
        let loads: Vec<_> = (0..16).map(|_| Arc::new(Load::default())).collect();
        let starts: std::collections::BTreeSet<_> = (0..32)
            .map(|seed| {
                let mut rng = SmallRng::seed_from_u64(seed);
                RoundRobin::starting_anywhere(&mut rng)
                    .pick(&loads, &mut rng)
                    .unwrap()
            })
            .collect();
        assert!(starts.len() > 4, "{starts:?}");
    }
}
