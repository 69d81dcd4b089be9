//! Least request by the power of two choices: of two random members the less busy one.
//!
//! Place in the walk: one of the algorithms behind [`Balancer`], and the default, as in Istio. Must not know:
//! what a request is.
//!
//! With equal weights it is Envoy's algorithm: two choices with replacement, the first wins a tie. With unequal ones
//! Envoy orders all members by `weight / (active + 1)` in a heap, which needs a lock and all members' counts; here two
//! are drawn by weight, and one of them by chance, with odds of `1 / (active + 1)`. Idle members are then picked in
//! proportion to their weights, and busy ones less in proportion to what they are doing, as there.

use rand::Rng;

use super::{Asked, Balancer, Members};

#[derive(Debug)]
pub(super) struct LeastRequest;

impl Balancer for LeastRequest {
    fn pick(&self, members: &Members, asked: &mut Asked<'_>) -> Option<usize> {
        let first = members.at_random(asked.rng)?;
        let second = members.at_random(asked.rng)?;
        let (one, other) = (members.get(first)?, members.get(second)?);
        let (one_active, other_active) = (one.load.active(), other.load.active());
        let is_second = if members.weigh_alike() {
            other_active < one_active
        } else {
            asked.rng.random_range(0..one_active + other_active + 2) < one_active + 1
        };
        Some(if is_second { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng};

    use super::*;
    use crate::balance::Pick;
    use crate::balance::tests::{asked, assert_fits, counts_of, members, weighted};

    /// Members with the given numbers of active requests.
    fn busy(counts: &[usize]) -> (Members, Vec<Pick>) {
        let members = members(counts.len());
        let picks = members
            .iter()
            .zip(counts)
            .flat_map(|(member, &count)| (0..count).map(move |_| Pick::new(Arc::clone(&member.load))))
            .collect();
        (members, picks)
    }

    proptest! {
        #[test]
        fn never_picks_the_busier_of_its_two_choices(
            counts in prop::collection::vec(0..6_usize, 1..20),
            seed: u64,
        ) {
            let (members, _held) = busy(&counts);
            // The same seed foretells the two choices.
            let mut foretold = SmallRng::seed_from_u64(seed);
            let first = foretold.random_range(0..members.len());
            let second = foretold.random_range(0..members.len());
            let mut rng = SmallRng::seed_from_u64(seed);
            let picked = LeastRequest.pick(&members, &mut asked(&mut rng)).unwrap();
            prop_assert!(picked == first || picked == second);
            prop_assert_eq!(counts[picked], counts[first].min(counts[second]));
        }
    }

    #[test]
    fn never_picks_the_busiest_when_another_is_drawn() {
        let (members, _held) = busy(&[9, 0]);
        let mut rng = SmallRng::seed_from_u64(1);
        let busiest = (0..4000)
            .filter(|_| LeastRequest.pick(&members, &mut asked(&mut rng)) == Some(0))
            .count();
        // Only when both draws are the busy one: a quarter.
        assert!((800..1200).contains(&busiest), "{busiest}");
    }

    #[test]
    fn spreads_evenly_when_picks_are_held() {
        let (members, _none) = busy(&[0; 10]);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut held = Vec::new();
        for _ in 0..1000 {
            let index = LeastRequest.pick(&members, &mut asked(&mut rng)).unwrap();
            held.push(Pick::new(Arc::clone(&members.get(index).unwrap().load)));
        }
        for member in members.iter() {
            assert!((90..110).contains(&member.load.active()), "{member:?}");
        }
    }

    #[test]
    fn idle_members_are_picked_by_their_weights() {
        let weights = [1, 2, 5];
        assert_fits(&counts_of(&LeastRequest, &weighted(&weights), 20_000), &weights);
    }

    #[test]
    fn of_two_equal_weights_among_others_the_busy_one_is_picked_less() {
        let members = weighted(&[4, 4, 1]);
        let _held: Vec<_> = (0..9)
            .map(|_| Pick::new(Arc::clone(&members.get(0).unwrap().load)))
            .collect();
        let counts = counts_of(&LeastRequest, &members, 10_000);
        assert!(counts[0] * 2 < counts[1], "{counts:?}");
    }
}
