//! Round robin: each member in turn, from a random start so that the nodes of a cluster do not march in step.
//!
//! Place in the walk: one of the algorithms behind [`Balancer`]. Must not know: loads. Unequal weights are turns of a
//! round that was laid out ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::{Rng, RngCore};

use super::{Asked, Balancer, Members};

/// The turn that comes next; it wraps, and is kept when the members change.
#[derive(Debug)]
pub(super) struct Turn(AtomicUsize);

impl Turn {
    pub(super) fn anywhere(rng: &mut dyn RngCore) -> Self {
        // 32 bits are start enough, and leave the counter a lifetime before it wraps.
        Self(AtomicUsize::new(
            usize::try_from(rng.random::<u32>()).unwrap_or_default(),
        ))
    }

    fn take(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn next(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct RoundRobin(Arc<Turn>);

impl RoundRobin {
    pub(super) fn new(turn: Arc<Turn>) -> Self {
        Self(turn)
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, members: &Members, asked: &mut Asked<'_>) -> Option<usize> {
        if asked.attempt > 0 {
            // The turn of one that is left out falls on all others alike, not on its neighbour each time.
            return members.at_random(asked.rng);
        }
        let turn = if asked.is_rehearsal {
            self.0.next()
        } else {
            self.0.take()
        };
        members.in_turn(turn)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::balance::tests::{asked, members, weighted};

    fn starting(seed: u64) -> RoundRobin {
        RoundRobin::new(Arc::new(Turn::anywhere(&mut SmallRng::seed_from_u64(seed))))
    }

    proptest! {
        #[test]
        fn picks_each_member_once_a_round(seed: u64, count in 1..40_usize, rounds in 1..5_usize) {
            let (members, balancer) = (members(count), starting(seed));
            for _ in 0..rounds {
                let mut round: Vec<_> = (0..count)
                    .map(|_| balancer.pick(&members, &mut asked(&mut rand::rng())).unwrap())
                    .collect();
                round.sort_unstable();
                prop_assert_eq!(round, (0..count).collect::<Vec<_>>());
            }
        }

        #[test]
        fn picks_each_member_as_often_a_round_as_its_weight(
            seed: u64,
            mut weights in prop::collection::vec(1..9_u32, 1..20),
        ) {
            // With a weight of 1 they have nothing in common: a round is their sum.
            weights.push(1);
            let (members, balancer) = (weighted(&weights), starting(seed));
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..weights.iter().sum() {
                counts[balancer.pick(&members, &mut asked(&mut rand::rng())).unwrap()] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }

    #[test]
    fn starts_at_different_members_with_different_seeds() {
        let members = members(16);
        let starts: std::collections::BTreeSet<_> = (0..32)
            .map(|seed| {
                starting(seed)
                    .pick(&members, &mut asked(&mut rand::rng()))
                    .unwrap()
            })
            .collect();
        assert!(starts.len() > 4, "{starts:?}");
    }
}
