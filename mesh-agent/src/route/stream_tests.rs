//! Which rule decides a connection: names before wildcards, order as written, who is concerned, and shares.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::*;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::route::{Audience, Filters, NamePattern, RouteBackend, StreamRule};
use crate::mesh::service::ServiceName;

fn backend(name: &str, weight: u32) -> RouteBackend {
    RouteBackend {
        field: "f".into(),
        target: BackendTarget::Service(ServiceName::new("ns", name), 80),
        weight,
        filters: Filters::default(),
    }
}

fn rule(matches: Vec<StreamMatch>, backend_name: &str) -> StreamRule {
    StreamRule {
        matches,
        backends: vec![backend(backend_name, 1)],
    }
}

fn route(kind: RouteKind, name: &str, rules: Vec<StreamRule>) -> StreamRoute {
    StreamRoute {
        kind,
        namespace: "ns".into(),
        name: name.into(),
        meta: Arc::new(ObjectMeta {
            object: format!("Route ns/{name}").into(),
            ..ObjectMeta::default()
        }),
        audience: Audience::default(),
        parents: Vec::new(),
        rules,
    }
}

fn table(routes: &[StreamRoute]) -> StreamTable {
    let exists = |target: &BackendTarget| {
        target
            .named()
            .is_some_and(|(service, ..)| service.name.as_ref() != "missing")
    };
    StreamTable::compile(routes, exists).unwrap()
}

fn named(pattern: &str) -> StreamMatch {
    StreamMatch {
        opening: OpeningMatch::Named(NamePattern::read(pattern).unwrap()),
        ..StreamMatch::default()
    }
}

fn tls() -> StreamMatch {
    StreamMatch {
        opening: OpeningMatch::Tls,
        ..StreamMatch::default()
    }
}

fn facts(opening: &Opening) -> StreamFacts<'_> {
    StreamFacts {
        addr: "10.96.0.1".parse().unwrap(),
        dialled: Dialled {
            port: 443,
            namespace: "shop",
            ..Dialled::default()
        },
        opening,
    }
}

/// The only backend of the rule that decides, or why none does.
fn decided(table: &StreamTable, facts: &StreamFacts<'_>) -> String {
    match table.decide(facts) {
        StreamDecision::Rule(rule) => rule.choose(&mut rand::rng()).map_or_else(
            || "invalid".to_owned(),
            |backend| backend.service.name.to_string(),
        ),
        StreamDecision::Unconcerned => "unconcerned".to_owned(),
        StreamDecision::NoRoute => "no route".to_owned(),
    }
}

fn asking(table: &StreamTable, name: &str) -> String {
    decided(table, &facts(&Opening::Named(name.into())))
}

#[test]
fn the_most_specific_name_decides_in_gateway_api() {
    let table = table(&[
        route(RouteKind::Tls, "a", vec![rule(vec![tls()], "all")]),
        route(
            RouteKind::Tls,
            "b",
            vec![rule(vec![named("*.example.com")], "wide")],
        ),
        route(
            RouteKind::Tls,
            "c",
            vec![rule(vec![named("*.shop.example.com")], "narrow")],
        ),
        route(
            RouteKind::Tls,
            "d",
            vec![rule(vec![named("a.shop.example.com")], "exact")],
        ),
    ]);
    for (name, expected) in [
        ("a.shop.example.com", "exact"),
        ("b.shop.example.com", "narrow"),
        ("shop.example.com", "wide"),
        ("example.com", "all"),
        ("other", "all"),
    ] {
        assert_eq!(asking(&table, name), expected, "{name}");
    }
    assert_eq!(decided(&table, &facts(&Opening::Unnamed)), "all");
    assert_eq!(decided(&table, &facts(&Opening::Other)), "no route");
}

#[test]
fn of_two_routes_for_one_name_the_elder_decides() {
    let aged = |name: &str, age: u64, backend: &str| {
        let mut route = route(
            RouteKind::Tls,
            name,
            vec![rule(vec![named("a.example")], backend)],
        );
        let created = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age);
        route.meta = Arc::new(ObjectMeta {
            created: Some(created),
            ..ObjectMeta::clone(&route.meta)
        });
        route
    };
    let table = table(&[aged("a", 9, "young"), aged("b", 1, "old")]);
    assert_eq!(asking(&table, "a.example"), "old");
}

#[test]
fn a_virtual_service_is_tried_as_it_is_written() {
    let table = table(&[route(
        RouteKind::Virtual,
        "v",
        vec![
            rule(vec![named("*.example")], "wide"),
            rule(vec![named("a.example")], "exact"),
            rule(vec![StreamMatch::default()], "bytes"),
        ],
    )]);
    assert_eq!(asking(&table, "a.example"), "wide");
    assert_eq!(asking(&table, "elsewhere"), "bytes");
    assert_eq!(decided(&table, &facts(&Opening::Other)), "bytes");
}

#[test]
fn whom_no_rule_is_about_is_left_alone_by_a_virtual_service_and_refused_by_gateway_api() {
    let labels: BTreeMap<_, _> = [("app".to_owned(), "cart".to_owned())].into();
    let of = |change: fn(&mut StreamMatch)| {
        let mut one = StreamMatch::default();
        change(&mut one);
        one
    };
    for (one, expected) in [
        (of(|one| one.port = Some(443)), "to"),
        (of(|one| one.port = Some(444)), "unconcerned"),
        (of(|one| one.source_namespace = Some("shop".into())), "to"),
        (
            of(|one| one.source_namespace = Some("bank".into())),
            "unconcerned",
        ),
        (
            of(|one| one.source_labels = vec![("app".to_owned(), "cart".to_owned())]),
            "to",
        ),
        (
            of(|one| one.source_labels = vec![("app".to_owned(), "web".to_owned())]),
            "unconcerned",
        ),
        (
            of(|one| one.subnets = vec!["10.96.0.0/16".parse().unwrap()]),
            "to",
        ),
        (
            of(|one| one.subnets = vec!["10.97.0.0/16".parse().unwrap()]),
            "no route",
        ),
    ] {
        let table = table(&[route(
            RouteKind::Virtual,
            "v",
            vec![rule(vec![one.clone()], "to")],
        )]);
        let mut facts = facts(&Opening::Other);
        facts.dialled.labels = Some(&labels);
        assert_eq!(decided(&table, &facts), expected, "{one:?}");
    }
    let empty = table(&[route(RouteKind::Tcp, "t", vec![rule(Vec::new(), "to")])]);
    assert_eq!(decided(&empty, &facts(&Opening::Other)), "no route");
}

#[test]
fn first_bytes_are_waited_for_only_where_a_rule_asks_for_them() {
    let elsewhere = StreamMatch {
        port: Some(1),
        ..named("a.example")
    };
    let within = StreamMatch {
        subnets: vec!["10.0.0.0/8".parse().unwrap()],
        ..StreamMatch::default()
    };
    let all = StreamMatch::default;
    for (matches, expected) in [
        (vec![all()], Need::Nothing),
        (vec![named("a.example")], Need::Handshake),
        (vec![tls()], Need::Handshake),
        (vec![named("a.example"), all()], Need::Glance),
        (vec![all(), named("a.example")], Need::Nothing),
        (vec![within.clone(), named("a.example")], Need::Glance),
        (vec![elsewhere, all()], Need::Nothing),
        (Vec::new(), Need::Nothing),
    ] {
        let table = table(&[route(RouteKind::Virtual, "v", vec![rule(matches.clone(), "to")])]);
        assert_eq!(
            table.need(&facts(&Opening::Other).dialled),
            expected,
            "{matches:?}"
        );
    }
}

#[test]
fn a_rule_of_connections_without_weight_refuses() {
    for backends in [vec![], vec![backend("a", 0), backend("b", 0)]] {
        let mut routes = [route(
            RouteKind::Tcp,
            "t",
            vec![rule(vec![StreamMatch::default()], "a")],
        )];
        routes[0].rules[0].backends = backends;
        let table = table(&routes);
        let StreamDecision::Rule(rule) = table.decide(&facts(&Opening::Other)) else {
            panic!("no rule");
        };
        assert!(rule.choose(&mut SmallRng::seed_from_u64(1)).is_none());
    }
}

#[test]
fn shares_follow_the_weights_and_what_cannot_be_keeps_its_own() {
    let mut routes = [route(
        RouteKind::Tcp,
        "t",
        vec![rule(vec![StreamMatch::default()], "a")],
    )];
    routes[0].rules[0].backends = vec![
        backend("a", 6),
        backend("b", 2),
        backend("missing", 2),
        backend("c", 0),
    ];
    let table = table(&routes);
    let StreamDecision::Rule(rule) = table.decide(&facts(&Opening::Other)) else {
        panic!("no rule");
    };
    let mut rng = SmallRng::seed_from_u64(11);
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    let draws = 10_000_u32;
    for _ in 0..draws {
        let chosen = rule.choose(&mut rng);
        let name = chosen.map_or_else(
            || "refused".to_owned(),
            |backend| backend.service.name.to_string(),
        );
        *counts.entry(name).or_default() += 1.0;
    }
    let expected = [("a", 0.6), ("b", 0.2), ("refused", 0.2)];
    assert_eq!(counts.len(), expected.len(), "{counts:?}");
    let chi_square: f64 = expected
        .into_iter()
        .map(|(name, share)| {
            let wanted = f64::from(draws) * share;
            (counts[name] - wanted).powi(2) / wanted
        })
        .sum();
    // Two degrees of freedom: 13.8 is passed by one of a thousand.
    assert!(chi_square < 13.8, "{chi_square}: {counts:?}");
}

proptest! {
    #[test]
    fn the_rule_that_decides_holds_and_none_that_holds_is_more_specific(
        patterns in proptest::collection::vec("(\\*\\.)?([ab]\\.){0,3}c", 1..6),
        name in "([ab]\\.){0,4}c",
    ) {
        let routes: Vec<_> = patterns
            .iter()
            .enumerate()
            .map(|(index, pattern)| {
                let backend = format!("b{index}");
                route(RouteKind::Tls, &format!("r{index}"), vec![rule(vec![named(pattern)], &backend)])
            })
            .collect();
        let found = asking(&table(&routes), &name);
        let holding = patterns.iter().map(|pattern| NamePattern::read(pattern).unwrap()).enumerate();
        let best = holding
            .filter(|(_, pattern)| pattern.holds(&name))
            .max_by_key(|(index, pattern)| (pattern.specificity(), Reverse(*index)));
        let expected = best.map_or_else(|| "no route".to_owned(), |(index, _)| format!("b{index}"));
        prop_assert_eq!(found, expected);
    }
}
