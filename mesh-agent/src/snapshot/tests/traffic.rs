//! Whose word counts for a Service's traffic, and what survives a rebuild of it.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::balance::Outcome;
use crate::mesh::export::Export;
use crate::mesh::traffic::{DestinationRule, HostPattern, Limits, OutlierDetection, WrittenPolicy};

pub(super) fn rule(name: &str, namespace: &str, host: HostPattern, policy: WrittenPolicy) -> DestinationRule {
    DestinationRule {
        meta: meta(&format!("DestinationRule {namespace}/{name}"), 0),
        namespace: namespace.into(),
        host,
        policy,
        ports: Vec::new(),
        subsets: Vec::new(),
        export: Export::Everybody,
        clients: None,
    }
}

pub(super) fn limited(requests: u32) -> WrittenPolicy {
    WrittenPolicy {
        limits: Some(Limits {
            requests: Some(requests),
            ..Limits::default()
        }),
        ..WrittenPolicy::default()
    }
}

pub(super) fn ejecting() -> WrittenPolicy {
    WrittenPolicy {
        outliers: Some(OutlierDetection::default()),
        ..WrittenPolicy::default()
    }
}

pub(super) fn web_host() -> HostPattern {
    HostPattern::Service(ServiceName::new("shop", "web"))
}

pub(super) fn upstream(snapshot: &Snapshot) -> Arc<Upstream> {
    let upstream = snapshot.upstream(&client(), &ServiceName::new("shop", "web"), 80);
    Arc::clone(upstream.unwrap())
}

pub(super) fn vip() -> IpAddr {
    "10.96.0.1".parse().unwrap()
}

/// How many requests are let through at once; 9 for no limit.
fn limit_of(facts: &Facts) -> usize {
    let (snapshot, _) = build(facts);
    let upstream = upstream(&snapshot);
    let picks: Vec<_> = (0..9)
        .map_while(|_| upstream.pick(&request_to(vip()), &mut rand::rng()).ok())
        .collect();
    picks.len()
}

#[test]
fn the_most_specific_rule_of_the_nearest_namespace_acts() {
    let all = || HostPattern::All;
    let of_shop = || HostPattern::Namespace("shop".into());
    let rules = [
        rule("a", "shop", web_host(), limited(1)),
        rule("b", "shop", of_shop(), limited(2)),
        rule("c", "shop", all(), limited(3)),
        rule("d", "mesh-system", web_host(), limited(4)),
        rule("e", "mesh-system", of_shop(), limited(5)),
        rule("f", "mesh-system", all(), limited(6)),
    ];
    for first in 0..rules.len() {
        // In whatever order they are read.
        for is_reversed in [false, true] {
            let mut acting = rules[first..].to_vec();
            if is_reversed {
                acting.reverse();
            }
            let facts = Facts {
                destination_rules: acting,
                ..web()
            };
            assert_eq!(limit_of(&facts), first + 1);
            assert_eq!(build(&facts).1, []);
        }
    }
    let elsewhere = rule(
        "a",
        "mesh-system",
        HostPattern::Namespace("bank".into()),
        limited(1),
    );
    let facts = Facts {
        destination_rules: vec![elsewhere],
        ..web()
    };
    assert_eq!(limit_of(&facts), 9);
}

#[test]
fn a_rule_for_a_service_that_is_not_there_is_named() {
    let stray = HostPattern::Service(ServiceName::new("shop", "none"));
    let facts = Facts {
        destination_rules: vec![rule("a", "shop", stray, limited(1))],
        ..web()
    };
    let (_, rejections) = build(&facts);
    assert_eq!(fields(&rejections), [("DestinationRule shop/a", "spec.host")]);
    assert_eq!(limit_of(&facts), 9);
}

#[test]
fn the_older_of_two_rules_for_one_host_acts() {
    for host in [web_host(), HostPattern::All] {
        let aged = |name: &str, age: u64, requests: u32| DestinationRule {
            meta: meta(&format!("DestinationRule shop/{name}"), age),
            ..rule(name, "shop", host.clone(), limited(requests))
        };
        let facts = Facts {
            destination_rules: vec![aged("young", 20, 1), aged("old", 10, 2)],
            ..web()
        };
        assert_eq!(limit_of(&facts), 2);
        let rejections = build(&facts).1;
        assert_eq!(fields(&rejections), [("DestinationRule shop/young", "spec.host")]);
    }
}

#[test]
fn a_port_of_its_own_inherits_nothing() {
    let mut of_port = rule("a", "shop", web_host(), limited(1));
    of_port.ports = vec![(80, WrittenPolicy::default())];
    let facts = Facts {
        destination_rules: vec![of_port],
        ..web()
    };
    assert_eq!(limit_of(&facts), 9);
}

/// Fails the endpoint that is picked until one is ejected.
fn fail_one(upstream: &Upstream) -> SocketAddr {
    let mut rng = SmallRng::seed_from_u64(3);
    for _ in 0..200 {
        let mut picked = upstream.pick(&request_to(vip()), &mut rng).unwrap();
        let outcome = if picked.endpoint.addr == upstream.endpoints()[0].addr {
            Outcome::ServerError
        } else {
            Outcome::Good
        };
        picked.pick.done(outcome, Instant::now());
    }
    let ejected = upstream.endpoints().iter().find(|one| one.is_ejected());
    ejected.expect("nobody was ejected").addr
}

#[test]
fn an_ejected_endpoint_stays_so_in_the_next_snapshot_unless_it_is_another_pod() {
    let mut facts = Facts {
        destination_rules: vec![rule("a", "shop", web_host(), ejecting())],
        ..web()
    };
    let (first, _) = build(&facts);
    let ejected = fail_one(&upstream(&first));
    facts.services[0].traffic.balancer = None;
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    let is_ejected = |snapshot: &Snapshot| upstream(snapshot).endpoints()[0].is_ejected();
    assert!(is_ejected(&second));
    for _ in 0..50 {
        let picked = upstream(&second)
            .pick(&request_to(vip()), &mut rand::rng())
            .unwrap();
        assert_ne!(picked.endpoint.addr, ejected);
    }
    facts.workloads[0].uid = WorkloadUid::new("shop/web-1-again");
    let (third, _) = Snapshot::build(&facts, &settings(), Some(&second));
    assert!(!is_ejected(&third));
    facts.destination_rules.clear();
    let (fourth, _) = Snapshot::build(&facts, &settings(), Some(&second));
    assert!(!is_ejected(&fourth), "without a policy nobody is out");
}

#[test]
fn an_ejected_endpoint_is_taken_back_by_a_sweep_after_its_time() {
    let facts = Facts {
        destination_rules: vec![rule("a", "shop", web_host(), ejecting())],
        ..web()
    };
    let (snapshot, _) = build(&facts);
    let upstream = upstream(&snapshot);
    fail_one(&upstream);
    let (now, base) = (Instant::now(), Duration::from_secs(30));
    assert!(upstream.sweep(now));
    assert!(upstream.endpoints()[0].is_ejected());
    assert!(upstream.sweep(now + base));
    assert!(!upstream.endpoints()[0].is_ejected());
}

#[test]
fn requests_that_are_under_way_count_in_the_next_snapshot() {
    let facts = Facts {
        destination_rules: vec![rule("a", "shop", web_host(), limited(1))],
        ..web()
    };
    let (first, _) = build(&facts);
    let _held = upstream(&first)
        .pick(&request_to(vip()), &mut rand::rng())
        .unwrap();
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    let next = upstream(&second).pick(&request_to(vip()), &mut rand::rng());
    assert_eq!(next.err(), Some(Unpicked::Overflow));
}

#[test]
fn session_affinity_keeps_an_address_at_one_endpoint() {
    let mut facts = web();
    facts.services[0].traffic.has_affinity = true;
    let (snapshot, _) = build(&facts);
    let upstream = upstream(&snapshot);
    assert_eq!(
        upstream.hash_key(),
        Some(&crate::mesh::traffic::HashKey::SourceIp)
    );
    for client in 0..50_u64 {
        let facts = PickFacts {
            hash: Some(client.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ..request_to(vip())
        };
        let pick = || upstream.pick(&facts, &mut rand::rng()).unwrap().endpoint.addr;
        assert_eq!(pick(), pick());
    }
}

#[test]
fn an_endpoint_that_answers_late_is_picked_less_by_peak_ewma() {
    let mut facts = web();
    facts.services[0].traffic.balancer = Some(BalancerKind::PeakEwma);
    let (snapshot, _) = build(&facts);
    let upstream = upstream(&snapshot);
    let mut rng = SmallRng::seed_from_u64(8);
    let slow = upstream.endpoints()[0].addr;
    let mut times = 0;
    for _ in 0..400 {
        let asked = request_to(vip());
        let picked = upstream.pick(&asked, &mut rng).unwrap();
        let is_slow = picked.endpoint.addr == slow;
        times += u32::from(is_slow);
        let took = Duration::from_millis(if is_slow { 900 } else { 1 });
        picked.pick.answered(asked.now + took);
    }
    // Only when both draws are the slow one: a quarter.
    assert!((60..140).contains(&times), "{times}");
}

#[test]
fn what_is_foreseen_is_picked_and_foreseeing_takes_nothing() {
    for (is_sticky, hash) in [(false, None), (true, Some(7))] {
        let mut facts = Facts {
            destination_rules: vec![rule("a", "shop", web_host(), limited(1))],
            ..web()
        };
        facts.services[0].traffic.has_affinity = is_sticky;
        let (snapshot, _) = build(&facts);
        let upstream = upstream(&snapshot);
        let asked = PickFacts {
            hash,
            ..request_to(vip())
        };
        for _ in 0..9 {
            let foreseen = upstream.foresee(&asked, &mut rand::rng()).unwrap().addr;
            let again = upstream.foresee(&asked, &mut rand::rng()).unwrap();
            assert_eq!((again.addr, again.active()), (foreseen, 0), "{is_sticky}");
            let picked = upstream.pick(&asked, &mut rand::rng()).unwrap();
            assert_eq!(picked.endpoint.addr, foreseen, "{is_sticky}");
            let full = upstream.foresee(&asked, &mut rand::rng());
            assert_eq!(full.err(), Some(Unpicked::Overflow), "{is_sticky}");
        }
        let overflows = upstream.breakers().vitals().overflows(Limit::Requests);
        assert_eq!(overflows, 0, "{is_sticky}");
    }
}

#[test]
fn groups_stand_as_they_share_the_traffic() {
    let facts = Facts {
        destination_rules: vec![rule("a", "shop", web_host(), ejecting())],
        ..web()
    };
    let (snapshot, _) = build(&facts);
    let upstream = upstream(&snapshot);
    let ejected = fail_one(&upstream);
    let groups = upstream.standings(vip());
    let shares: f64 = groups.iter().map(|group| group.share_percent).sum();
    assert!((shares - 100.0).abs() < 1e-9, "{groups:?}");
    let endpoints = groups.iter().flat_map(|group| &group.endpoints);
    let out: Vec<_> = endpoints
        .clone()
        .filter(|one| one.is_ejected())
        .map(|one| one.addr)
        .collect();
    assert_eq!(
        (endpoints.count(), out),
        (upstream.endpoints().len(), vec![ejected])
    );
}

#[test]
fn a_session_is_kept_at_the_endpoint_of_its_time_unless_that_is_tried_or_ejected() {
    let facts = Facts {
        destination_rules: vec![rule("a", "shop", web_host(), ejecting())],
        ..web()
    };
    let (snapshot, _) = build(&facts);
    let upstream = upstream(&snapshot);
    let addr = upstream.endpoints()[0].addr;
    let incarnation = upstream.incarnation(addr).unwrap();
    let goes = |tried: &[SocketAddr]| {
        let asked = PickFacts {
            kept: Some(addr),
            tried,
            ..request_to(vip())
        };
        let mut rng = SmallRng::seed_from_u64(5);
        let mut picks = (0..50).map(|_| upstream.pick(&asked, &mut rng).unwrap().endpoint.addr);
        picks.all(|picked| picked == addr)
    };
    assert!(upstream.keeps(addr, incarnation));
    assert!(
        !upstream.keeps(addr, incarnation ^ 1),
        "another pod with its address"
    );
    assert!(
        !upstream.keeps("10.99.0.1:80".parse().unwrap(), incarnation),
        "no endpoint"
    );
    assert!(goes(&[]));
    assert!(!goes(&[addr]));

    assert_eq!(fail_one(&upstream), addr);
    assert!(!upstream.keeps(addr, incarnation));
    assert!(!goes(&[]));
}
