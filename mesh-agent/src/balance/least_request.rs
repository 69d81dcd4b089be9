//! Least request by the power of two choices: of two random members the less busy one.
//!
//! Place in the walk: one of the algorithms behind [`Balancer`], and the default, as in Istio. Must not know:
//! what a request is.

use std::sync::Arc;

use rand::{Rng, RngCore};

use super::{Balancer, Load};

/// Two choices with replacement, the first wins a tie: Envoy's algorithm for equal weights.
#[derive(Debug)]
pub(super) struct LeastRequest;

impl Balancer for LeastRequest {
    fn pick(&self, members: &[Arc<Load>], rng: &mut dyn RngCore) -> Option<usize> {
        if members.is_empty() {
            return None;
        }
        let first = rng.random_range(0..members.len());
        let second = rng.random_range(0..members.len());
        let is_second_idler = members.get(second)?.active() < members.get(first)?.active();
        Some(if is_second_idler { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng};

    use super::*;
    use crate::balance::Pick;

    /// Members with the given numbers of active requests.
    fn busy(counts: &[usize]) -> (Vec<Arc<Load>>, Vec<Pick>) {
        let loads: Vec<_> = counts.iter().map(|_| Arc::new(Load::default())).collect();
        let picks = loads
            .iter()
            .zip(counts)
            .flat_map(|(load, &count)| (0..count).map(move |_| Pick::new(Arc::clone(load))))
            .collect();
        (loads, picks)
    }

    proptest! {
        #[test]
        fn never_picks_the_busier_of_its_two_choices(
            counts in prop::collection::vec(0..6_usize, 1..20),
            seed: u64,
        ) {
            let (loads, _held) = busy(&counts);
            // The same seed foretells the two choices.
            let mut foretold = SmallRng::seed_from_u64(seed);
            let first = foretold.random_range(0..loads.len());
            let second = foretold.random_range(0..loads.len());
            let picked = LeastRequest.pick(&loads, &mut SmallRng::seed_from_u64(seed)).unwrap();
            prop_assert!(picked == first || picked == second);
            prop_assert_eq!(counts[picked], counts[first].min(counts[second]));
        }
    }

    #[test]
    fn never_picks_the_busiest_when_another_is_drawn() {
        let (loads, _held) = busy(&[9, 0]);
        let mut rng = SmallRng::seed_from_u64(1);
        let busiest = (0..4000)
            .filter(|_| LeastRequest.pick(&loads, &mut rng) == Some(0))
            .count();
        // Only when both draws are the busy one: a quarter.
        assert!((800..1200).contains(&busiest), "{busiest}");
    }

    #[test]
    fn spreads_evenly_when_picks_are_held() {
        let (loads, _none) = busy(&[0; 10]);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut held = Vec::new();
        for _ in 0..1000 {
            let index = LeastRequest.pick(&loads, &mut rng).unwrap();
            held.push(Pick::new(Arc::clone(&loads[index])));
        }
        for load in &loads {
            assert!((90..110).contains(&load.active()), "{loads:?}");
        }
    }
}
