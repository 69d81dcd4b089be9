//! What survives from one snapshot to the next.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::balance::{Load, Member};
use crate::mesh::route::{HttpMatch, PathMatch};
use crate::mesh::slice::SliceMember;

#[test]
fn loads_and_turns_and_unchanged_pods_survive_a_rebuild() {
    let mut facts = web();
    let (first, _) = build(&facts);
    let mut rng = SmallRng::seed_from_u64(0);
    let name = ServiceName::new("shop", "web");
    let vip: IpAddr = "10.96.0.1".parse().unwrap();
    let held = first
        .upstream(&client(), &name, 80)
        .unwrap()
        .pick(&request_to(vip), &mut rng)
        .unwrap();
    facts.workloads[1]
        .labels
        .insert("app".to_owned(), "changed".to_owned());
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    assert_eq!((first.version(), second.version()), (1, 2));

    let same = second
        .upstream(&client(), &name, 80)
        .unwrap()
        .pick(&request_to(vip), &mut rng)
        .unwrap();
    assert_ne!(same.endpoint.addr, held.endpoint.addr, "the turn goes on");
    let again = second
        .upstream(&client(), &name, 80)
        .unwrap()
        .pick(&request_to(vip), &mut rng)
        .unwrap();
    assert_eq!(again.endpoint.addr, held.endpoint.addr);
    assert_eq!(again.endpoint.active(), 2, "the first pick still counts");

    for (uid, is_same) in [("shop/web-1", true), ("shop/web-2", false)] {
        let uid = WorkloadUid::new(uid);
        let pair = (first.workload(&uid).unwrap(), second.workload(&uid).unwrap());
        assert_eq!(Arc::ptr_eq(pair.0, pair.1), is_same, "{uid}");
    }
}

#[test]
fn what_there_are_a_hundred_thousand_of_is_small() {
    let sizes = [
        (
            "a member of a slice, the uid of its pod included",
            size_of::<SliceMember>(),
            88,
        ),
        ("an endpoint of an upstream", size_of::<UpstreamEndpoint>(), 72),
        ("the same, as a balancer sees it", size_of::<Member>(), 72),
        ("its load", size_of::<Load>(), 40),
    ];
    for (what, bytes, most) in sizes {
        assert!(bytes <= most, "{what} has {bytes} bytes");
    }
}

#[test]
fn a_pods_labels_are_worked_out_once_until_the_pod_changes() {
    let mut facts = web();
    let (first, _) = build(&facts);
    let known = |snapshot: &Snapshot, uid| Arc::clone(snapshot.workload(&WorkloadUid::new(uid)).unwrap());
    let of = |snapshot: &Snapshot, uid| snapshot.labels(&known(snapshot, uid));
    let (same, changed) = (of(&first, "shop/web-1"), of(&first, "shop/web-2"));
    assert!(Arc::ptr_eq(&same, &of(&first, "shop/web-1")));

    facts.workloads[1].naming.app = "renamed".into();
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    assert!(Arc::ptr_eq(&same, &of(&second, "shop/web-1")));
    assert_eq!(of(&second, "shop/web-2").app(), "renamed");
    let stale = known(&first, "shop/web-2");
    assert_eq!(
        second.labels(&stale).app(),
        changed.app(),
        "asked about a pod as it was"
    );
}

#[test]
fn a_new_pod_at_an_old_address_begins_with_no_load() {
    let mut facts = web();
    facts.endpoints.truncate(1);
    let (first, _) = build(&facts);
    let name = ServiceName::new("shop", "web");
    let vip: IpAddr = "10.96.0.1".parse().unwrap();
    let _held = first
        .upstream(&client(), &name, 80)
        .unwrap()
        .pick(&request_to(vip), &mut rand::rng())
        .unwrap();
    facts.workloads[0].uid = WorkloadUid::new("shop/web-1-again");
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    assert_eq!(
        second.upstream(&client(), &name, 80).unwrap().endpoints()[0].active(),
        0
    );
}

#[test]
fn subscribers_of_the_cell_learn_the_published_version() {
    let (first, _) = build(&web());
    let (second, _) = Snapshot::build(&web(), &settings(), Some(&first));
    let cell = SnapshotCell::new(first);
    let mut versions = cell.subscribe();
    assert!(!versions.has_changed().unwrap());
    cell.publish(second);
    assert!(versions.has_changed().unwrap());
    assert_eq!(*versions.borrow_and_update(), 2);
    assert_eq!(cell.load().version(), 2);
}

/// A thousand Services with a hundred routes each.
fn a_hundred_thousand_routes() -> Facts {
    let mut facts = Facts::default();
    for number in 0..1000_u32 {
        let [.., high, low] = number.to_be_bytes();
        let (name, vip) = (format!("s{number}"), format!("10.96.{high}.{low}"));
        facts
            .services
            .push(service(&name, &[&vip], AppProtocol::Http).into());
        for path in 0..100 {
            let mut route = route("shop", &format!("{name}-{path}"), parent(&name), (&name, 80));
            route.rules[0].matches = vec![HttpMatch {
                path: PathMatch::Prefix(format!("/{path}").into()),
                ..HttpMatch::default()
            }];
            facts.http_routes.push(route);
        }
    }
    facts
}

#[test]
fn a_hundred_thousand_routes_are_compiled_and_each_is_found() {
    let mut facts = a_hundred_thousand_routes();
    // One of them is wrong: it is named, and takes nothing with it.
    facts.http_routes[4_242].parents = vec![parent("nothing")];
    let (snapshot, rejections) = build(&facts);
    assert_eq!(
        fields(&rejections),
        [("HTTPRoute shop/s42-42", "spec.parentRefs[0].name")]
    );
    let headers = HeaderMap::new();
    for number in 0..1000_u32 {
        let [.., high, low] = number.to_be_bytes();
        let Destination::Service(upstream) =
            snapshot.destination(&client(), ([10, 96, high, low], 80).into())
        else {
            panic!("{number} is no Service");
        };
        let table = snapshot.routes("shop", &upstream).unwrap();
        for path in 0..100 {
            let asked = format!("/{path}/more");
            let facts = RequestFacts {
                method: "GET",
                path: &asked,
                query: None,
                headers: &headers,
                dialled: Dialled::default(),
            };
            let found = table.decide(&facts).map(|decided| decided.rule.route.clone());
            let expected = ((number, path) != (42, 42)).then(|| format!("shop/s{number}-{path}"));
            assert_eq!(found, expected, "{number} {path}");
        }
    }
}
