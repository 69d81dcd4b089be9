//! Ketama: each member stands at many points of a ring of hashes, and a request goes to the next one.
//!
//! Place in the walk: one of the algorithms behind [`Balancer`]. Must not know: what is hashed.
//!
//! The ring is Envoy's, point by point, so that a mesh that moves from one to the other keeps its caches warm.

use std::fmt::Write as _;

use rand::Rng;

use super::{Asked, Balancer, Members, hash};

/// Points and positions, sorted by point.
#[derive(Debug)]
pub(super) struct RingHash {
    ring: Box<[(u64, usize)]>,
}

impl RingHash {
    /// At least `least` points, shared by weight; never more than [`LARGEST`], whatever is asked for.
    pub(super) fn of(members: &Members, least: u32) -> Self {
        let total: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
        let lightest = members.iter().map(|member| member.weight).min().unwrap_or(1);
        let share = f64::from(lightest) / total;
        let scale = ((share * f64::from(least.min(LARGEST))).ceil() / share).min(f64::from(LARGEST));
        let mut ring = Vec::new();
        // Sums over all members, so that what rounding leaves over is not lost for each.
        let (mut current, mut target) = (0.0, 0.0);
        for (position, member) in members.iter().enumerate() {
            target += scale * f64::from(member.weight) / total;
            let name = member.name.to_string();
            let mut point = String::with_capacity(name.len() + 8);
            let mut copy = 0_u32;
            while current < target {
                point.clear();
                // Writing to a String cannot fail.
                let _written = write!(point, "{name}_{copy}");
                ring.push((hash(point.as_bytes()), position));
                copy += 1;
                current += 1.0;
            }
        }
        ring.sort_unstable();
        Self {
            ring: ring.into_boxed_slice(),
        }
    }
}

impl Balancer for RingHash {
    fn pick(&self, _members: &Members, asked: &mut Asked<'_>) -> Option<usize> {
        let wanted = asked.hash.unwrap_or_else(|| asked.rng.random());
        let next = self.ring.partition_point(|(point, _)| *point < wanted);
        let skipped = usize::try_from(asked.attempt).unwrap_or_default();
        let at = (next + skipped).checked_rem(self.ring.len())?;
        self.ring.get(at).map(|(_, position)| *position)
    }
}

/// Envoy's bound.
const LARGEST: u32 = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{asked, assert_fits, envoys_six, members, weighted_at};

    /// Envoy's `RingHashLoadBalancerTest.Basic`: 127.0.0.1:90 to :95 with at least 12 points.
    const ENVOYS_RING: [(u64, usize); 12] = [
        (833_437_586_790_550_860, 4),
        (928_266_305_478_181_108, 2),
        (1_033_482_794_131_418_490, 0),
        (3_551_244_743_356_806_947, 5),
        (3_851_675_632_748_031_481, 3),
        (5_583_722_120_771_150_861, 1),
        (6_311_230_543_546_372_928, 1),
        (7_700_377_290_971_790_572, 3),
        (13_144_177_310_400_110_813, 5),
        (13_444_792_449_719_432_967, 2),
        (15_516_499_411_664_133_160, 4),
        (16_117_243_373_044_804_889, 0),
    ];

    #[test]
    fn the_ring_is_envoys() {
        assert_eq!(*RingHash::of(&envoys_six(), 12).ring, ENVOYS_RING);
    }

    #[test]
    fn a_hash_goes_to_the_next_point_round_the_ring() {
        let members = envoys_six();
        let ring = RingHash::of(&members, 12);
        for (wanted, attempt, expected) in [
            (0, 0, 4),
            (u64::MAX, 0, 4),
            (3_551_244_743_356_806_947, 0, 5),
            (3_551_244_743_356_806_948, 0, 3),
            (3_551_244_743_356_806_948, 1, 1),
            (u64::MAX, 1, 2),
        ] {
            let mut rng = rand::rng();
            let mut asked = asked(&mut rng);
            (asked.hash, asked.attempt) = (Some(wanted), attempt);
            assert_eq!(
                ring.pick(&members, &mut asked),
                Some(expected),
                "{wanted} {attempt}"
            );
        }
    }

    #[test]
    fn members_have_points_by_weight() {
        let members = weighted_at(&[(90, 1), (91, 2)]);
        let ring = RingHash::of(&members, 3).ring;
        let of = |wanted| ring.iter().filter(|(_, position)| *position == wanted).count();
        assert_eq!((of(0), of(1)), (1, 2));
    }

    #[test]
    fn a_ring_has_a_point_for_each_member_however_many() {
        let members = members(3000);
        let ring = RingHash::of(&members, 1024);
        assert_eq!(ring.ring.len(), 3000);
    }

    #[test]
    fn without_a_hash_the_member_is_random() {
        let members = members(1);
        let ring = RingHash::of(&members, 64);
        assert_fits(&crate::balance::tests::counts_of(&ring, &members, 10), &[1]);
    }
}
