//! Peak EWMA: of two random members the one that will answer sooner, by its response time and what it has to do.
//!
//! Place in the walk: one of the algorithms behind [`Balancer`]; ours, since Istio has none like it. Must not know: how
//! response times are measured.

use std::time::Instant;

use super::{Asked, Balancer, Member, Members};

#[derive(Debug)]
pub(super) struct PeakEwma;

impl Balancer for PeakEwma {
    fn pick(&self, members: &Members, asked: &mut Asked<'_>) -> Option<usize> {
        let first = members.at_random(asked.rng)?;
        let second = members.at_random(asked.rng)?;
        let now = Instant::now();
        let is_second = cost(members.get(second)?, now) < cost(members.get(first)?, now);
        Some(if is_second { second } else { first })
    }
}

/// How long a request would take that joined those under way.
fn cost(member: &Member, now: Instant) -> u64 {
    let queue = u64::try_from(member.load.active() + 1).unwrap_or(u64::MAX);
    member.load.expected_micros(now).saturating_mul(queue)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::balance::Pick;
    use crate::balance::tests::{counts_of, members};

    #[test]
    fn the_slow_member_is_picked_only_when_drawn_twice() {
        let members = members(2);
        for (position, millis) in [(0, 900), (1, 10)] {
            let rtt = Duration::from_millis(millis);
            members.get(position).unwrap().load.answered(rtt, Instant::now());
        }
        let counts = counts_of(&PeakEwma, &members, 4000);
        assert!((800..1200).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn a_fast_member_with_a_long_queue_is_passed_over() {
        let members = members(2);
        for (position, millis) in [(0, 100), (1, 300)] {
            let rtt = Duration::from_millis(millis);
            members.get(position).unwrap().load.answered(rtt, Instant::now());
        }
        let _held: Vec<_> = (0..9)
            .map(|_| Pick::new(Arc::clone(&members.get(0).unwrap().load)))
            .collect();
        let counts = counts_of(&PeakEwma, &members, 4000);
        assert!(counts[0] < 1200, "{counts:?}");
    }
}
