//! Who comes first, by Istio's settings, by hints and by `trafficDistribution`.

use super::*;
use crate::mesh::traffic::LocalityPattern;

fn at(region: &str, zone: &str, node: &str) -> Locality {
    Locality {
        region: Some(region.into()),
        zone: Some(zone.into()),
        node: Some(node.into()),
    }
}

/// Own node, own zone, own region, another region, a third one.
fn spread() -> Vec<(Locality, EndpointPlace)> {
    [
        at("eu", "eu-a", "n1"),
        at("eu", "eu-a", "n2"),
        at("eu", "eu-b", "n3"),
        at("us", "us-a", "n4"),
        at("ap", "ap-a", "n5"),
    ]
    .map(|locality| (locality, EndpointPlace::default()))
    .into()
}

fn arranged(
    own: &Locality,
    places: &[(Locality, EndpointPlace)],
    policy: &LocalityPolicy,
    nearest: Option<Nearest>,
    has_outliers: bool,
) -> Arrangement {
    let places: Vec<_> = places
        .iter()
        .map(|(locality, slice)| Place { locality, slice })
        .collect();
    let wishes = Wishes {
        policy,
        nearest,
        has_outliers,
    };
    arrange(own, &places, wishes)
}

fn groups(policy: &LocalityPolicy, nearest: Option<Nearest>, has_outliers: bool) -> Vec<Vec<usize>> {
    arranged(&at("eu", "eu-a", "n1"), &spread(), policy, nearest, has_outliers).groups
}

#[test]
fn near_ones_come_first_where_somebody_says_so() {
    use LocalityPolicy::{Failover, Off, Unsaid};
    let us_for_eu = Failover(vec![RegionFailover {
        from: "eu".into(),
        to: "us".into(),
    }]);
    for (policy, nearest, has_outliers, expected) in [
        (&Unsaid, None, false, vec![vec![0, 1, 2, 3, 4]]),
        (&Unsaid, None, true, vec![vec![0, 1], vec![2], vec![3, 4]]),
        (&Off, None, true, vec![vec![0, 1, 2, 3, 4]]),
        (&Off, Some(Nearest::Zone), true, vec![vec![0, 1, 2, 3, 4]]),
        (
            &Unsaid,
            Some(Nearest::Zone),
            false,
            vec![vec![0, 1], vec![2, 3, 4]],
        ),
        (
            &Unsaid,
            Some(Nearest::Node),
            true,
            vec![vec![0], vec![1], vec![2, 3, 4]],
        ),
        (
            &us_for_eu,
            None,
            false,
            vec![vec![0, 1], vec![2], vec![3], vec![4]],
        ),
        (
            &us_for_eu,
            Some(Nearest::Node),
            false,
            vec![vec![0, 1], vec![2], vec![3], vec![4]],
        ),
    ] {
        assert_eq!(
            groups(policy, nearest, has_outliers),
            expected,
            "{policy:?} {nearest:?} {has_outliers}"
        );
    }
}

#[test]
fn failover_priority_counts_the_labels_that_agree_from_the_first_on() {
    let label = |of, value: Option<&str>| PriorityLabel {
        of,
        value: value.map(Into::into),
    };
    let of_place = [label(PlaceLabel::Region, None), label(PlaceLabel::Zone, None)];
    assert_eq!(
        groups(&LocalityPolicy::Priority(of_place.into()), None, true),
        [vec![0, 1], vec![2], vec![3, 4]]
    );
    let of_us = [label(PlaceLabel::Region, Some("us"))];
    assert_eq!(
        groups(&LocalityPolicy::Priority(of_us.into()), None, true),
        [vec![3], vec![0, 1, 2, 4]]
    );
}

#[test]
fn distribution_gives_shares_to_places_and_nothing_to_others() {
    let pattern = |region: Option<&str>, zone: Option<&str>| LocalityPattern {
        region: region.map(Into::into),
        zone: zone.map(Into::into),
    };
    let policy = LocalityPolicy::Distribute(vec![Distribution {
        from: pattern(Some("eu"), None),
        to: vec![
            (pattern(Some("eu"), Some("eu-a")), 70),
            (pattern(Some("eu"), None), 20),
            (pattern(Some("us"), None), 10),
            (pattern(Some("af"), None), 0),
        ],
    }]);
    let arrangement = arranged(&at("eu", "eu-b", "n9"), &spread(), &policy, None, false);
    assert_eq!(arrangement.groups, [vec![0, 1], vec![2], vec![3]]);
    assert_eq!(arrangement.weights, Some(vec![70, 20, 10]));
    // Of clients elsewhere nothing is said.
    let elsewhere = arranged(&at("us", "us-a", "n9"), &spread(), &policy, None, false);
    assert_eq!(elsewhere.groups, [vec![0, 1, 2, 3, 4]]);
    assert_eq!(elsewhere.weights, None);
}

fn hinted(hints: &[(&[&str], &[&str])]) -> Vec<(Locality, EndpointPlace)> {
    let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    hints
        .iter()
        .map(|(zones, nodes)| {
            let place = EndpointPlace {
                for_zones: names(zones),
                for_nodes: names(nodes),
                ..EndpointPlace::default()
            };
            (Locality::default(), place)
        })
        .collect()
}

/// Where the client is, hints for zones and nodes, what the Service prefers, and the groups.
type Case<'a> = (
    &'a Locality,
    &'a [(&'a [&'a str], &'a [&'a str])],
    Option<Nearest>,
    Vec<Vec<usize>>,
);

#[test]
fn hints_count_only_if_all_endpoints_have_one_and_one_is_for_here() {
    let own = at("eu", "eu-a", "n1");
    let unknown = Locality::default();
    let cases: [Case<'_>; 7] = [
        (
            &own,
            &[(&["eu-a"], &[]), (&["eu-b"], &[])],
            None,
            vec![vec![0], vec![1]],
        ),
        (
            &own,
            &[(&["eu-b", "eu-a"], &[]), (&["eu-b"], &[])],
            None,
            vec![vec![0], vec![1]],
        ),
        (&own, &[(&["eu-a"], &[]), (&[], &[])], None, vec![vec![0, 1]]),
        (
            &own,
            &[(&["eu-b"], &[]), (&["eu-c"], &[])],
            None,
            vec![vec![0, 1]],
        ),
        (
            &unknown,
            &[(&["eu-a"], &[]), (&["eu-b"], &[])],
            None,
            vec![vec![0, 1]],
        ),
        (
            &own,
            &[(&["eu-a"], &["n2"]), (&["eu-a"], &["n1"]), (&["eu-b"], &["n3"])],
            Some(Nearest::Node),
            vec![vec![1], vec![0], vec![2]],
        ),
        (
            &own,
            &[(&["eu-a"], &["n2"]), (&["eu-a"], &["n1"]), (&["eu-b"], &["n3"])],
            None,
            vec![vec![0, 1], vec![2]],
        ),
    ];
    for (number, (own, hints, nearest, expected)) in cases.into_iter().enumerate() {
        let found = arranged(own, &hinted(hints), &LocalityPolicy::Unsaid, nearest, false);
        assert_eq!(found.groups, expected, "case {number}");
    }
}

#[test]
fn a_node_that_knows_no_place_treats_all_alike() {
    let own = Locality {
        node: Some("n1".into()),
        ..Locality::default()
    };
    let found = arranged(&own, &spread(), &LocalityPolicy::Unsaid, None, true);
    assert_eq!(found.groups, [vec![0, 1, 2, 3, 4]]);
}
