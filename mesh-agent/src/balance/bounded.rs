//! Bounded load: consistent hashing that does not give a member more than its part of what is under way.
//!
//! Place in the walk: wraps a hashing algorithm. Must not know: how that one chooses.
//!
//! A member that is full is passed over by jumps that the hash alone decides (arXiv 1908.08762), so that one value has
//! the same second home each time, and the overflow of one member does not fall on its neighbour.

use rand::Rng;

use super::{Asked, Balancer, Members};

#[derive(Debug)]
pub(super) struct Bounded {
    hashing: Box<dyn Balancer>,
    /// In percent of the average; at least 100.
    factor: u64,
}

impl Bounded {
    pub(super) fn new(hashing: Box<dyn Balancer>, factor: u32) -> Self {
        Self {
            hashing,
            factor: u64::from(factor.max(100)),
        }
    }
}

impl Balancer for Bounded {
    fn pick(&self, members: &Members, asked: &mut Asked<'_>) -> Option<usize> {
        let hash = *asked.hash.get_or_insert_with(|| asked.rng.random());
        let first = self.hashing.pick(members, asked)?;
        let active = u64::try_from(asked.active).unwrap_or(u64::MAX);
        let room = ((active + 1) * self.factor).div_ceil(100);
        let most = room.div_ceil(u64::try_from(members.len()).ok()?);
        let load_of = |position| {
            let load = members.get(position).map_or(usize::MAX, |one| one.load.active());
            u64::try_from(load).unwrap_or(u64::MAX)
        };
        let (mut best, mut least) = (first, load_of(first));
        let mut jump = hash;
        for _ in 0..JUMPS {
            if least < most {
                break;
            }
            jump = scattered(jump);
            let next = usize::try_from(jump % u64::try_from(members.len()).ok()?).ok()?;
            if load_of(next) < least {
                (best, least) = (next, load_of(next));
            }
        }
        Some(best)
    }
}

/// The step of `SplitMix64`: the next of a sequence that its start decides.
fn scattered(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The least loaded of so many is good enough when all are full.
const JUMPS: usize = 32;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::Pick;
    use crate::balance::maglev::Maglev;
    use crate::balance::tests::{asked, members};

    #[test]
    fn one_hot_value_never_gives_a_member_more_than_its_part() {
        let members = members(10);
        let bounded = Bounded::new(Box::new(Maglev::of(&members, 65537)), 150);
        let mut rng = rand::rng();
        let mut held = Vec::new();
        for active in 0..200 {
            let mut asked = asked(&mut rng);
            (asked.hash, asked.active) = (Some(42), active);
            let picked = bounded.pick(&members, &mut asked).unwrap();
            held.push(Pick::new(Arc::clone(&members.get(picked).unwrap().load)));
            let most = members.iter().map(|one| one.load.active()).max().unwrap();
            assert!(
                most <= ((active + 1) * 150).div_ceil(100).div_ceil(10),
                "{active}: {most}"
            );
        }
    }

    #[test]
    fn with_room_a_value_stays_where_it_hashes_to() {
        let members = members(10);
        let plain = Maglev::of(&members, 65537);
        let bounded = Bounded::new(Box::new(Maglev::of(&members, 65537)), 125);
        let mut rng = rand::rng();
        for value in 0..1000 {
            let mut asked = asked(&mut rng);
            asked.hash = Some(scattered(value));
            assert_eq!(
                bounded.pick(&members, &mut asked),
                plain.pick(&members, &mut asked)
            );
        }
    }
}
