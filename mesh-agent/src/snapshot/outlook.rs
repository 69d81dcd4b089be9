//! What an upstream would do, for whoever asks without sending anything.
//!
//! Place in the walk: none; an explanation asks. Must not know: who asks, or why.

use std::net::IpAddr;
use std::sync::Arc;

use rand::RngCore;

use super::upstream::{PickFacts, Unpicked, Upstream, UpstreamEndpoint};
use crate::balance::{Members, Roster};

/// Endpoints of one family and preference, and what they get of the traffic now.
#[derive(Debug)]
pub struct GroupStanding<'u> {
    /// In percent of what goes to the family.
    pub share_percent: f64,
    /// Whether ejected ones are used too, since too few others are left.
    pub is_panicking: bool,
    /// The endpoints, sorted by address.
    pub endpoints: Vec<&'u Arc<UpstreamEndpoint>>,
}

impl Upstream {
    /// The endpoint that would be picked now; nothing is taken, counted or begun.
    pub fn foresee(
        &self,
        facts: &PickFacts<'_>,
        rng: &mut dyn RngCore,
    ) -> Result<&Arc<UpstreamEndpoint>, Unpicked> {
        let breakers = self.breakers();
        if !breakers.has_room(facts.of) {
            return Err(Unpicked::Overflow);
        }
        self.choose(facts, breakers.vitals().under_way(facts.of), true, rng)
    }

    /// The endpoints as they share the traffic of clients that dial `dialled`, in the order in which groups are
    /// preferred; those of the other family come last: they are used when there is nobody else.
    pub fn standings(&self, dialled: IpAddr) -> Vec<GroupStanding<'_>> {
        let rosters = self.rosters(dialled).into_iter();
        let of_group = |members: &Members| {
            let endpoints = members
                .iter()
                .filter_map(|member| self.endpoints().get(member.index));
            endpoints.collect()
        };
        rosters
            .flat_map(Roster::groups)
            .map(|(share_percent, is_panicking, members)| GroupStanding {
                share_percent,
                is_panicking,
                endpoints: of_group(members),
            })
            .filter(|group| !group.endpoints.is_empty())
            .collect()
    }
}
