//! Endpoints whose health is checked.

use std::time::Duration;

use super::traffic::{upstream, vip};
use super::*;
use crate::balance::{Change, Finding};
use crate::mesh::health_check::{HealthCheck, Question};
use crate::snapshot::{Checked, Unpicked};

fn quick(panic_percent: u32) -> Arc<HealthCheck> {
    Arc::new(HealthCheck {
        unhealthy_threshold: 1,
        healthy_threshold: 1,
        panic_percent,
        ..HealthCheck::new(Question::Tcp)
    })
}

fn checked_web(panic_percent: u32) -> Facts {
    let mut facts = web();
    facts.services[0].traffic.health_check = Some(quick(panic_percent));
    facts
}

/// By address.
fn checked(snapshot: &Snapshot) -> Vec<Arc<Checked>> {
    let mut checked: Vec<_> = snapshot.checked().map(Arc::clone).collect();
    checked.sort_by_key(|one| one.addr);
    checked
}

fn fail(checked: &Checked) {
    let change = checked.found(Finding::Failed, Instant::now());
    assert_eq!(change, Some(Change::Unhealthy));
}

/// Who is picked in many tries, by the last number of the address.
fn picked(snapshot: &Snapshot) -> Vec<String> {
    let mut addrs: Vec<_> = (0..60)
        .filter_map(|_| upstream(snapshot).pick(&request_to(vip()), &mut rand::rng()).ok())
        .map(|picked| picked.endpoint.addr.to_string())
        .collect();
    addrs.sort();
    addrs.dedup();
    addrs
}

#[test]
fn an_unhealthy_endpoint_is_passed_over_at_once_and_used_again_when_it_is_healthy() {
    let (snapshot, _) = build(&checked_web(50));
    let first = &checked(&snapshot)[0];
    assert_eq!(picked(&snapshot).len(), 2);
    fail(first);
    assert_eq!(picked(&snapshot), ["10.0.0.2:8080"]);
    assert_eq!(snapshot.unhealthy()[0].to_string(), "shop/web at 10.0.0.1:8080");
    assert_eq!(upstream(&snapshot).unhealthy(), Some(1));
    assert!(upstream(&snapshot).sweep(Instant::now()));
    assert_eq!(picked(&snapshot), ["10.0.0.2:8080"], "half of them is no panic");
    assert_eq!(
        first.found(Finding::Passed, Instant::now()),
        Some(Change::Healthy)
    );
    assert_eq!(picked(&snapshot).len(), 2);
}

#[test]
fn when_too_few_are_healthy_all_are_used_unless_that_is_not_wanted() {
    for (panic_percent, expected) in [(50, 2), (0, 0)] {
        let (snapshot, _) = build(&checked_web(panic_percent));
        for one in checked(&snapshot) {
            fail(&one);
        }
        upstream(&snapshot).sweep(Instant::now());
        assert_eq!(picked(&snapshot).len(), expected, "{panic_percent}");
        let pick = upstream(&snapshot).pick(&request_to(vip()), &mut rand::rng());
        assert_eq!(pick.err(), (expected == 0).then_some(Unpicked::NoEndpoint));
    }
}

#[test]
fn what_is_known_survives_a_snapshot_but_neither_another_pod_nor_another_check() {
    let mut facts = checked_web(50);
    let (first, _) = build(&facts);
    fail(&checked(&first)[0]);
    upstream(&first).used_by(vip(), Instant::now());
    let again = |facts: &Facts| Snapshot::build(facts, &settings(), Some(&first)).0;
    let second = again(&facts);
    assert_eq!(second.unhealthy().len(), 1);
    assert!(Arc::ptr_eq(&checked(&first)[0], &checked(&second)[0]));
    assert!(checked(&second)[0].usage.last().is_some());

    facts.services[0].traffic.health_check = Some(quick(49));
    let other_check = again(&facts);
    assert_eq!(other_check.unhealthy(), []);
    assert!(
        checked(&other_check)[0].usage.last().is_some(),
        "it is used as before"
    );

    facts = checked_web(50);
    facts.workloads[0].uid = WorkloadUid::new("shop/web-1-again");
    assert_eq!(again(&facts).unhealthy(), []);

    facts.services[0].traffic.health_check = None;
    let unchecked = again(&facts);
    assert_eq!(unchecked.checked().count(), 0);
    assert_eq!(upstream(&unchecked).unhealthy(), None);
}

#[test]
fn a_check_that_is_nobodys_any_more_ends_with_its_snapshot() {
    let facts = checked_web(50);
    let (first, _) = build(&facts);
    let held: Vec<_> = first.checked().map(Arc::downgrade).collect();
    assert!(first.checked().all(|one| one.take()));
    let (second, _) = Snapshot::build(&web(), &settings(), Some(&first));
    drop(first);
    assert!(held.iter().all(|one| one.upgrade().is_none()));
    drop(second);
}

#[test]
fn ports_and_ways_that_lead_to_one_endpoint_are_one_check() {
    let mut facts = checked_web(50);
    let mut second_port = facts.services[0].ports[0].clone();
    second_port.name = "admin".into();
    second_port.port = 81;
    facts.services[0].ports.push(second_port);
    let of_second = endpoint("web", "10.0.0.1:9090", Ready);
    facts.endpoints.push(Endpoint {
        port_name: "admin".into(),
        ..of_second
    });
    let addrs = |facts: &Facts| -> Vec<String> {
        let (snapshot, _) = build(facts);
        checked(&snapshot)
            .iter()
            .map(|one| one.addr.to_string())
            .collect()
    };
    assert_eq!(addrs(&facts), ["10.0.0.1:8080", "10.0.0.1:9090", "10.0.0.2:8080"]);
    let check = facts.services[0].traffic.health_check.clone().unwrap();
    facts.services[0].traffic.health_check = Some(Arc::new(HealthCheck {
        port: Some(8081),
        ..HealthCheck::clone(&check)
    }));
    assert_eq!(addrs(&facts), ["10.0.0.1:8081", "10.0.0.2:8081"]);
}

#[test]
fn who_is_not_ready_is_not_asked() {
    for (condition, expected) in [(Ready, 2), (ServingTerminating, 1), (NotServing, 1)] {
        let mut facts = checked_web(50);
        facts.endpoints[0].condition = condition;
        let (snapshot, _) = build(&facts);
        assert_eq!(snapshot.checked().count(), expected, "{condition:?}");
    }
}

#[test]
fn each_is_taken_once() {
    let (snapshot, _) = build(&checked_web(50));
    let taken = || snapshot.checked().filter(|one| one.take()).count();
    assert_eq!((taken(), taken()), (2, 0));
    let last = checked(&snapshot)[0].last();
    assert_eq!(last, None);
    let now = Instant::now() + Duration::from_secs(1);
    checked(&snapshot)[0].began(now);
    assert_eq!(checked(&snapshot)[0].last(), Some(now));
}
