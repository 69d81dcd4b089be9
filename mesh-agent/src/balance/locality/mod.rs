//! Which endpoints come first, by where they run.
//!
//! Place in the walk: worked out when a snapshot is built. Must not know: health, which decides how much each level
//! gets; algorithms, which choose within one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::traffic::{
    Distribution, EndpointPlace, Locality, LocalityPolicy, Nearest, PlaceLabel, PriorityLabel, RegionFailover,
};

/// Where an endpoint runs, and what its slice says of it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Of its node.
    pub locality: &'a Locality,
    /// Of its slice.
    pub slice: &'a EndpointPlace,
}

/// Endpoints, by their positions, in groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrangement {
    /// Levels, the first before the next; with `weights`, side by side. None is empty.
    pub groups: Vec<Vec<usize>>,
    /// The shares of the groups.
    pub weights: Option<Vec<u32>>,
}

/// What decides on an arrangement.
#[derive(Debug, Clone, Copy)]
pub struct Wishes<'a> {
    /// `localityLbSetting`.
    pub policy: &'a LocalityPolicy,
    /// `trafficDistribution`.
    pub nearest: Option<Nearest>,
    /// Whether failing endpoints are ejected: Istio then prefers near ones unless it is told otherwise.
    pub has_outliers: bool,
}

/// Arranges the endpoints at `places` for clients of the node at `own`.
pub fn arrange(own: &Locality, places: &[Place<'_>], wishes: Wishes<'_>) -> Arrangement {
    let ranks: Vec<usize> = match wishes.policy {
        LocalityPolicy::Off => vec![0; places.len()],
        LocalityPolicy::Failover(failovers) => by_failover(own, places, failovers),
        LocalityPolicy::Priority(labels) => by_labels(own, places, labels),
        LocalityPolicy::Distribute(distributions) => {
            if let Some(arrangement) = distributed(own, places, distributions) {
                return arrangement;
            }
            vec![0; places.len()]
        }
        LocalityPolicy::Unsaid => by_hints(own, places, wishes.nearest)
            .or_else(|| wishes.nearest.map(|nearest| by_nearness(own, places, nearest)))
            .unwrap_or_else(|| {
                if wishes.has_outliers {
                    by_failover(own, places, &[])
                } else {
                    vec![0; places.len()]
                }
            }),
    };
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (position, rank) in ranks.into_iter().enumerate() {
        groups.entry(rank).or_default().push(position);
    }
    Arrangement {
        groups: groups.into_values().collect(),
        weights: None,
    }
}

/// The own zone, the own region, the region that stands in for it, all others.
fn by_failover(own: &Locality, places: &[Place<'_>], failovers: &[RegionFailover]) -> Vec<usize> {
    let stands_in = |region: &Option<Arc<str>>| {
        failovers.iter().any(|failover| {
            Some(&failover.from) == own.region.as_ref() && Some(&failover.to) == region.as_ref()
        })
    };
    let rank = |place: &Place<'_>| {
        let Locality { region, zone, .. } = place.locality;
        match (*region == own.region, *zone == own.zone) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) if stands_in(region) => 2,
            (false, _) => 3,
        }
    };
    if own.region.is_none() && own.zone.is_none() {
        return vec![0; places.len()];
    }
    places.iter().map(rank).collect()
}

/// The more of the labels, from the first on, agree, the earlier.
fn by_labels(own: &Locality, places: &[Place<'_>], labels: &[PriorityLabel]) -> Vec<usize> {
    let part = |place: &Locality, of: PlaceLabel| match of {
        PlaceLabel::Region => place.region.clone(),
        PlaceLabel::Zone => place.zone.clone(),
        PlaceLabel::Node => place.node.clone(),
    };
    let wanted: Vec<_> = labels
        .iter()
        .map(|label| (label.of, label.value.clone().or_else(|| part(own, label.of))))
        .collect();
    let agreeing = |place: &Place<'_>| {
        let parts = wanted.iter();
        parts
            .take_while(|(of, value)| value.is_some() && part(place.locality, *of) == *value)
            .count()
    };
    places
        .iter()
        .map(|place| wanted.len().saturating_sub(agreeing(place)))
        .collect()
}

/// Groups with shares; `None` where nothing is said of clients at `own`. Of several patterns the first that an
/// endpoint fits counts, and endpoints that fit none get nothing.
fn distributed(own: &Locality, places: &[Place<'_>], distributions: &[Distribution]) -> Option<Arrangement> {
    let of_own = distributions.iter().find(|one| one.from.matches(own))?;
    let mut groups: Vec<(Vec<usize>, u32)> =
        of_own.to.iter().map(|(_, share)| (Vec::new(), *share)).collect();
    for (position, place) in places.iter().enumerate() {
        let fits = of_own
            .to
            .iter()
            .position(|(pattern, _)| pattern.matches(place.locality));
        if let Some((members, _)) = fits.and_then(|group| groups.get_mut(group)) {
            members.push(position);
        }
    }
    groups.retain(|(members, _)| !members.is_empty());
    let (groups, weights) = groups.into_iter().unzip();
    Some(Arrangement {
        groups,
        weights: Some(weights),
    })
}

/// By the hints of the slices, as kube-proxy reads them: only if every endpoint has one, and one is for here.
fn by_hints(own: &Locality, places: &[Place<'_>], nearest: Option<Nearest>) -> Option<Vec<usize>> {
    let (zone, node) = (own.zone.as_ref(), own.node.as_ref());
    let is_for_zone = |place: &Place<'_>| zone.is_some_and(|zone| place.slice.for_zones.contains(zone));
    let is_for_node = |place: &Place<'_>| node.is_some_and(|node| place.slice.for_nodes.contains(node));
    let has_zones =
        places.iter().all(|place| !place.slice.for_zones.is_empty()) && places.iter().any(is_for_zone);
    let has_nodes = nearest == Some(Nearest::Node)
        && places.iter().all(|place| !place.slice.for_nodes.is_empty())
        && places.iter().any(is_for_node);
    let rank = |place: &Place<'_>| match (has_nodes && is_for_node(place), has_zones && is_for_zone(place)) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    (has_zones || has_nodes).then(|| places.iter().map(rank).collect())
}

/// Without hints: by what is known of the endpoints themselves.
fn by_nearness(own: &Locality, places: &[Place<'_>], nearest: Nearest) -> Vec<usize> {
    let agrees = |own: &Option<Arc<str>>, other: &Option<Arc<str>>| own.is_some() && own == other;
    let rank = |place: &Place<'_>| {
        if nearest == Nearest::Node && agrees(&own.node, &place.locality.node) {
            0
        } else if agrees(&own.zone, &place.locality.zone) {
            1
        } else {
            2
        }
    };
    places.iter().map(rank).collect()
}

#[cfg(test)]
mod tests;
