//! A weighted round, laid out ahead by earliest deadline first (Envoy's EDF scheduler), so that a pick is one look-up
//! instead of a heap behind a lock.
//!
//! Place in the walk: made with the members, never at a pick. Must not know: members, loads.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// The next turn of one position: due after `turn / weight`, ties in the order of entry.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    turn: u64,
    weight: u64,
    entered: usize,
    position: usize,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // turn / weight compared without a division.
        let (own, others) = (self.turn * other.weight, other.turn * self.weight);
        own.cmp(&others).then(self.entered.cmp(&other.entered))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The positions of one round: each as often as its weight, divided by what all weights have in common.
///
/// Weights that would make a round longer than [`LONGEST`] are made smaller together, none below 1.
pub(super) fn lay_out(weights: &[u32]) -> Box<[usize]> {
    let weights = reduced(weights);
    let total: u64 = weights.iter().sum();
    let mut due: BinaryHeap<_> = weights
        .iter()
        .enumerate()
        .map(|(position, &weight)| {
            Reverse(Entry {
                turn: 1,
                weight,
                entered: position,
                position,
            })
        })
        .collect();
    let mut round = Vec::with_capacity(usize::try_from(total).unwrap_or_default());
    for (entered, _) in (weights.len()..).zip(0..total) {
        let Some(Reverse(next)) = due.pop() else { break };
        round.push(next.position);
        due.push(Reverse(Entry {
            turn: next.turn + 1,
            entered,
            ..next
        }));
    }
    round.into_boxed_slice()
}

fn reduced(weights: &[u32]) -> Vec<u64> {
    let common = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b))).max(1);
    let weights: Vec<u64> = weights.iter().map(|&w| (u64::from(w) / common).max(1)).collect();
    let total: u64 = weights.iter().sum();
    if total <= LONGEST {
        return weights;
    }
    weights.iter().map(|w| (w * LONGEST / total).max(1)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

const LONGEST: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn turns_are_spread_over_the_round() {
        assert_eq!(*lay_out(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(*lay_out(&[2, 4]), [1, 0, 1]);
        assert_eq!(*lay_out(&[5, 1]), [0, 0, 0, 0, 1, 0]);
        assert!(lay_out(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn each_has_as_many_turns_as_its_weight(weights in prop::collection::vec(1..50_u32, 1..30)) {
            let common = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b)));
            let round = lay_out(&weights);
            for (position, &weight) in weights.iter().enumerate() {
                let turns = round.iter().filter(|&&p| p == position).count();
                prop_assert_eq!(u64::try_from(turns).unwrap(), u64::from(weight) / common);
            }
        }
    }

    #[test]
    fn a_round_has_a_bound_and_nobody_is_left_out() {
        let weights: Vec<u32> = (0..1000).map(|i| 1 + i * 4_000_000).collect();
        let round = lay_out(&weights);
        assert!(round.len() <= 70_000, "{}", round.len());
        let seen: std::collections::BTreeSet<_> = round.iter().collect();
        assert_eq!(seen.len(), 1000);
    }
}
