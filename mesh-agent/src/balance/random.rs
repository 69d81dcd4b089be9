//! Random: any member, as often as its weight says.
//!
//! Place in the walk: one of the algorithms behind [`Balancer`]. Must not know: loads.

use super::{Asked, Balancer, Members};

#[derive(Debug)]
pub(super) struct Random;

impl Balancer for Random {
    fn pick(&self, members: &Members, asked: &mut Asked<'_>) -> Option<usize> {
        members.at_random(asked.rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{assert_fits, counts_of, members, weighted};

    #[test]
    fn every_member_is_as_likely() {
        let members = members(20);
        assert_fits(&counts_of(&Random, &members, 20_000), &[1; 20]);
    }

    #[test]
    fn a_member_is_as_likely_as_its_weight_says() {
        let weights = [1, 2, 3, 10];
        assert_fits(&counts_of(&Random, &weighted(&weights), 20_000), &weights);
    }
}
