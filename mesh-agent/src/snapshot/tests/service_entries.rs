//! Hosts of ServiceEntries among Services: who answers for them.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::traffic::{limited, rule};
use super::*;
use crate::mesh::traffic::{DestinationRule, HostPattern, Subset, WrittenPolicy};
use crate::route::Backend;

/// A host with two addresses, and an endpoint at each.
fn host(host: &str, keeps_dialled: bool) -> Facts {
    let mut service = service(host, &["192.0.2.1", "192.0.2.2"], AppProtocol::Http);
    service.traffic.keeps_dialled = keeps_dialled;
    Facts {
        services: vec![service.into()],
        endpoints: vec![
            endpoint(host, "192.0.2.1:80", Ready),
            endpoint(host, "192.0.2.2:80", Ready),
        ],
        ..Facts::default()
    }
}

fn picked(snapshot: &Snapshot, dialled: &str, rng: &mut SmallRng) -> String {
    let dialled: SocketAddr = dialled.parse().unwrap();
    let Destination::Service(upstream) = snapshot.destination(&client(), dialled) else {
        panic!("{dialled} is no Service's");
    };
    let picked = upstream.pick(&request_to(dialled.ip()), rng).unwrap();
    picked.endpoint.addr.to_string()
}

#[test]
fn who_dials_an_address_of_an_unresolved_host_reaches_it() {
    let mut rng = SmallRng::seed_from_u64(4);
    let (snapshot, rejections) = build(&host("a.example.com", true));
    assert_eq!(rejections, []);
    for _ in 0..8 {
        for dialled in ["192.0.2.1:80", "192.0.2.2:80"] {
            assert_eq!(picked(&snapshot, dialled, &mut rng), dialled);
        }
    }
    let (snapshot, _) = build(&host("a.example.com", false));
    let seen: std::collections::BTreeSet<_> = (0..8)
        .map(|_| picked(&snapshot, "192.0.2.1:80", &mut rng))
        .collect();
    assert_eq!(seen.len(), 2, "listed ones are balanced");
}

#[test]
fn listed_endpoints_are_served_by_weight() {
    let mut facts = host("a.example.com", false);
    facts.endpoints[0].weight = 3;
    let (snapshot, _) = build(&facts);
    let mut rng = SmallRng::seed_from_u64(4);
    let turns: Vec<_> = (0..40)
        .map(|_| picked(&snapshot, "192.0.2.1:80", &mut rng))
        .collect();
    assert_eq!(turns.iter().filter(|one| *one == "192.0.2.1:80").count(), 30);
}

#[test]
fn a_destination_rule_finds_the_host_and_subsets_its_endpoints_labels() {
    for name in ["a.example.com", "example.com"] {
        let mut facts = host(name, false);
        facts.endpoints[1].labels = [("version".to_owned(), "v2".to_owned())].into();
        // As `NAME.NAMESPACE` it would be a Service; there is none.
        let named = match name.split_once('.').unwrap() {
            (first, "com") => ServiceName::new("com", first),
            _ => ServiceName::new("shop", name),
        };
        facts.destination_rules = vec![DestinationRule {
            subsets: vec![Subset {
                name: "v2".into(),
                labels: BTreeMap::from([("version".to_owned(), "v2".to_owned())]),
                policy: WrittenPolicy::default(),
                ports: Vec::new(),
            }],
            ..rule("r", "shop", HostPattern::Service(named), limited(1))
        }];
        let (snapshot, rejections) = build(&facts);
        assert_eq!(rejections, [], "{name}");
        let backend = |subset: Option<&str>| Backend {
            service: ServiceName::new("shop", name),
            port: 80,
            subset: subset.map(Into::into),
            filters: Filters::default(),
        };
        let of_subset = snapshot.backend(&client(), &backend(Some("v2"))).unwrap();
        let addrs: Vec<_> = of_subset
            .endpoints()
            .iter()
            .map(|one| one.addr.to_string())
            .collect();
        assert_eq!(addrs, ["192.0.2.2:80"]);
        let whole = snapshot.backend(&client(), &backend(None)).unwrap();
        let dialled = request_to("192.0.2.1".parse().unwrap());
        let _held = whole.pick(&dialled, &mut rand::rng()).unwrap();
        assert_eq!(
            whole.pick(&dialled, &mut rand::rng()).err(),
            Some(Unpicked::Overflow)
        );
    }
}

#[test]
fn a_host_takes_no_address_from_a_service_or_a_pod() {
    let mut facts = web();
    let mut thief = service(
        "a.example.com",
        &["10.96.0.1", "10.0.0.1", "192.0.2.1"],
        AppProtocol::Http,
    );
    thief.meta = meta("ServiceEntry shop/thief", 0);
    for service in &mut facts.services {
        service.meta = meta("Service shop/web", 9);
    }
    facts.services.push(thief.into());
    let (snapshot, rejections) = build(&facts);
    let named = ("ServiceEntry shop/thief", "spec.addresses");
    assert_eq!(fields(&rejections), [named, named]);
    let owner = |addr: &str| match snapshot.destination(&client(), addr.parse().unwrap()) {
        Destination::Service(upstream) => upstream.service.name.to_string(),
        Destination::Workload { workload, .. } => workload.pod_name.to_string(),
        other @ (Destination::NoSuchPort(_) | Destination::Unknown) => format!("{other:?}"),
    };
    assert_eq!(owner("10.96.0.1:80"), "web");
    assert_eq!(owner("10.0.0.1:80"), "web-1");
    assert_eq!(owner("192.0.2.1:80"), "a.example.com");
}
