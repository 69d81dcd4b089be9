//! Maglev: a table in which each member has as many places as its weight says, filled so that few places change hands
//! when members come and go.
//!
//! Place in the walk: one of the algorithms behind [`Balancer`]. Must not know: what is hashed.
//!
//! The table is Envoy's (`maglev_lb.cc`), place by place.

use rand::Rng;
use twox_hash::XxHash64;

use super::{Asked, Balancer, Members};

/// Positions by the remainder of a hash.
#[derive(Debug)]
pub(super) struct Maglev {
    table: Box<[u32]>,
}

/// A member while the table is filled: its own order of all places, and when it may take one.
struct Filler {
    position: u32,
    offset: u64,
    skip: u64,
    tried: u64,
    weight: f64,
    due: f64,
}

impl Maglev {
    /// `size` is a prime.
    pub(super) fn of(members: &Members, size: u32) -> Self {
        let size = u64::from(size.max(2));
        let total: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
        let mut fillers: Vec<_> = (0_u32..)
            .zip(members.iter())
            .map(|(position, member)| {
                let name = member.name.to_string();
                let filler = Filler {
                    position,
                    offset: XxHash64::oneshot(0, name.as_bytes()) % size,
                    skip: XxHash64::oneshot(1, name.as_bytes()) % (size - 1) + 1,
                    tried: 0,
                    weight: f64::from(member.weight) / total,
                    due: 0.0,
                };
                (name, filler)
            })
            .collect();
        // In the order of their names, so that it does not matter who reads them in which order.
        fillers.sort_by(|a, b| a.0.cmp(&b.0));
        let fillers = fillers.into_iter().map(|(_, filler)| filler).collect();
        Self {
            table: fill(fillers, size),
        }
    }
}

/// Each member in turn takes the first free place of its own order; lighter ones sit out rounds.
fn fill(mut fillers: Vec<Filler>, size: u64) -> Box<[u32]> {
    let heaviest = fillers.iter().map(|filler| filler.weight).fold(0.0, f64::max);
    let mut table: Vec<Option<u32>> = vec![None; usize::try_from(size).unwrap_or_default()];
    let mut free = table.len();
    let mut round = 1.0;
    while free > 0 && !fillers.is_empty() {
        for filler in &mut fillers {
            if free == 0 {
                break;
            }
            if round * filler.weight < filler.due {
                continue;
            }
            filler.due += heaviest;
            while let Some(place) = filler.next_place(size) {
                if let Some(slot @ None) = table.get_mut(place) {
                    *slot = Some(filler.position);
                    free -= 1;
                    break;
                }
            }
        }
        round += 1.0;
    }
    table.into_iter().flatten().collect()
}

impl Filler {
    /// The places in the member's order; none after all of them.
    fn next_place(&mut self, size: u64) -> Option<usize> {
        if self.tried == size {
            return None;
        }
        let place = (self.offset + self.skip * self.tried) % size;
        self.tried += 1;
        usize::try_from(place).ok()
    }
}

impl Balancer for Maglev {
    fn pick(&self, _members: &Members, asked: &mut Asked<'_>) -> Option<usize> {
        let mut wanted = asked.hash.unwrap_or_else(|| asked.rng.random());
        if asked.attempt > 0 {
            // Envoy's way to another place for the same request.
            wanted ^= u64::MAX - u64::from(asked.attempt) + 1;
        }
        let size = u64::try_from(self.table.len()).ok()?;
        let place = usize::try_from(wanted.checked_rem(size)?).ok()?;
        usize::try_from(*self.table.get(place)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{asked, envoys_six, members, members_at, weighted_at};

    #[test]
    fn the_table_is_envoys() {
        // MaglevLoadBalancerTest.Basic.
        assert_eq!(*Maglev::of(&envoys_six(), 7).table, [2, 4, 0, 1, 5, 0, 3]);
    }

    #[test]
    fn another_attempt_is_another_place() {
        let members = envoys_six();
        let table = Maglev::of(&members, 7);
        let mut rng = rand::rng();
        let mut asked = asked(&mut rng);
        // Envoy's BasicWithRetryHostPredicate: 10 is place 3.
        (asked.hash, asked.attempt) = (Some(10), 0);
        assert_eq!(table.pick(&members, &mut asked), Some(1));
        asked.attempt = 1;
        let place = usize::try_from(!10_u64 % 7).unwrap();
        assert_eq!(
            table.pick(&members, &mut asked),
            Some([2, 4, 0, 1, 5, 0, 3][place])
        );
    }

    #[test]
    fn members_have_places_by_weight() {
        let table = Maglev::of(&weighted_at(&[(90, 1), (91, 2), (92, 3)]), 65537).table;
        let of = |wanted| table.iter().filter(|position| **position == wanted).count();
        let counts = [of(0), of(1), of(2)];
        for (count, expected) in counts.into_iter().zip([10_923, 21_846, 32_768]) {
            assert!(count.abs_diff(expected) < 10, "{counts:?}");
        }
    }

    #[test]
    fn few_places_change_hands_when_a_member_goes() {
        let ports: Vec<u16> = (1..=100).collect();
        let before = Maglev::of(&members_at(&ports), 65537).table;
        let after = Maglev::of(&members_at(&ports[..99]), 65537).table;
        let lost = before.iter().filter(|position| **position == 99).count();
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!(lost.abs_diff(655) < 20, "{lost}");
        // What the member had must move; of the rest the paper allows a few (Maglev, NSDI 2016, figure 11).
        let needless = changed - lost;
        assert!(needless * 100 < 65537 * 4, "{needless} of 65537");
    }

    #[test]
    fn every_member_has_a_place_and_all_places_are_taken() {
        let table = Maglev::of(&members(1000), 65537).table;
        let seen: std::collections::BTreeSet<_> = table.iter().collect();
        assert_eq!((table.len(), seen.len()), (65537, 1000));
    }
}
