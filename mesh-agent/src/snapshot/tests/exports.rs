//! Whose clients see a Service, and for whose clients a DestinationRule acts.

use super::traffic::{limited, rule, vip, web_host};
use super::*;
use crate::mesh::export::Export;
use crate::mesh::traffic::{DestinationRule, HostPattern, Subset, WrittenPolicy};
use crate::route::Backend;

fn to(namespaces: &[&str]) -> Export {
    Export::Namespaces(namespaces.iter().map(|one| Arc::from(*one)).collect())
}

/// Service `web` of `shop`, and a client in each of three namespaces.
fn town(rules: Vec<DestinationRule>) -> Facts {
    let mut facts = web();
    let clients = ["shop", "bank", "park"].map(|namespace| pod(namespace, "client").into());
    facts.workloads.extend::<[Shared<Workload>; 3]>(clients);
    facts.destination_rules = rules;
    facts
}

fn exported(name: &str, namespace: &str, export: Export, requests: u32) -> DestinationRule {
    DestinationRule {
        export,
        ..rule(name, namespace, web_host(), limited(requests))
    }
}

fn web_for(snapshot: &Snapshot, client: &Workload) -> Arc<Upstream> {
    let upstream = snapshot.upstream(client, &ServiceName::new("shop", "web"), 80);
    Arc::clone(upstream.unwrap())
}

/// How many requests are let through at once; 9 for no limit.
fn limit_for(snapshot: &Snapshot, client: &Workload) -> usize {
    let upstream = web_for(snapshot, client);
    let picks: Vec<_> = (0..9)
        .map_while(|_| upstream.pick(&request_to(vip()), &mut rand::rng()).ok())
        .collect();
    picks.len()
}

fn limits(facts: &Facts) -> [usize; 3] {
    let (snapshot, rejections) = build(facts);
    assert_eq!(rejections, []);
    ["shop", "bank", "park"].map(|namespace| limit_for(&snapshot, &pod(namespace, "client")))
}

#[test]
fn a_rule_acts_for_those_to_whom_it_is_exported_the_own_namespaces_before_the_services_before_the_roots() {
    let all = || Export::Everybody;
    let wide = |requests| rule("wide", "bank", HostPattern::All, limited(requests));
    for (rules, expected) in [
        (vec![exported("a", "shop", to(&["shop"]), 1)], [1, 9, 9]),
        (vec![exported("a", "shop", to(&["bank", "park"]), 1)], [9, 1, 1]),
        (vec![exported("a", "shop", to(&[]), 1)], [9, 9, 9]),
        (
            vec![exported("a", "shop", all(), 2), exported("b", "bank", all(), 1)],
            [2, 1, 2],
        ),
        (vec![exported("a", "shop", all(), 2), wide(1)], [2, 1, 2]),
        (vec![wide(3), exported("b", "bank", to(&["bank"]), 1)], [9, 1, 9]),
        (vec![exported("a", "bank", to(&["park"]), 1)], [9, 9, 9]),
        (vec![exported("a", "mesh-system", to(&["bank"]), 1)], [9, 1, 9]),
        (
            vec![
                exported("a", "shop", to(&["park"]), 1),
                exported("b", "mesh-system", all(), 2),
            ],
            [2, 2, 1],
        ),
        (
            vec![
                exported("a", "shop", to(&["shop"]), 1),
                exported("b", "shop", to(&["bank"]), 2),
            ],
            [1, 2, 9],
        ),
    ] {
        let names: Vec<_> = rules.iter().map(|rule| Arc::clone(&rule.meta.object)).collect();
        assert_eq!(limits(&town(rules.clone())), expected, "{names:?}");
        let reversed = rules.into_iter().rev().collect();
        assert_eq!(limits(&town(reversed)), expected, "{names:?} in another order");
    }
}

#[test]
fn of_two_rules_that_a_client_sees_the_elder_acts_and_the_other_is_named() {
    let aged = |name: &str, age, export, requests| DestinationRule {
        meta: meta(&format!("DestinationRule shop/{name}"), age),
        ..exported(name, "shop", export, requests)
    };
    let facts = town(vec![
        aged("young", 9, Export::Everybody, 1),
        aged("old", 1, to(&["bank"]), 2),
    ]);
    let (snapshot, rejections) = build(&facts);
    assert_eq!(fields(&rejections), [("DestinationRule shop/young", "spec.host")]);
    assert_eq!(limit_for(&snapshot, &pod("bank", "client")), 2);
    assert_eq!(limit_for(&snapshot, &pod("park", "client")), 9);
}

#[test]
fn a_rule_that_selects_pods_acts_for_these_before_one_that_does_not() {
    let labels = |value: &str| [("app".to_owned(), value.to_owned())].into();
    let selecting = DestinationRule {
        clients: Some(labels("till")),
        ..exported("till", "bank", Export::Everybody, 1)
    };
    let mut facts = town(vec![exported("all", "bank", Export::Everybody, 2), selecting]);
    let labelled = |namespace, name, value| Workload {
        labels: labels(value).into(),
        ..pod(namespace, name)
    };
    let (till, vault) = (
        labelled("bank", "till", "till"),
        labelled("bank", "vault", "vault"),
    );
    let stranger = labelled("park", "till", "till");
    facts
        .workloads
        .extend([&till, &vault, &stranger].map(|pod| Shared::from(pod.clone())));
    let (snapshot, rejections) = build(&facts);
    assert_eq!(rejections, []);
    let found = [&till, &vault, &stranger].map(|client| limit_for(&snapshot, client));
    assert_eq!(found, [1, 2, 9]);
}

#[test]
fn what_one_rule_counts_is_not_what_another_counts_and_goes_on_in_the_next_snapshot() {
    let facts = town(vec![
        exported("a", "shop", Export::Everybody, 2),
        exported("b", "bank", Export::Everybody, 1),
    ]);
    let (bank, park) = (pod("bank", "client"), pod("park", "client"));
    let (first, _) = build(&facts);
    let held = web_for(&first, &bank).pick(&request_to(vip()), &mut rand::rng());
    assert!(held.is_ok());
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    assert_eq!([&bank, &park].map(|client| limit_for(&second, client)), [0, 2]);
    drop(held);
    assert_eq!(limit_for(&second, &bank), 1);
}

#[test]
fn a_subset_of_a_rule_is_there_for_whom_the_rule_acts() {
    let versioned = Subset {
        name: "v1".into(),
        labels: std::collections::BTreeMap::new(),
        policy: WrittenPolicy::default(),
        ports: Vec::new(),
    };
    let mut facts = town(vec![DestinationRule {
        subsets: vec![versioned],
        ..rule("a", "bank", web_host(), WrittenPolicy::default())
    }]);
    let name = ServiceName::new("shop", "web");
    let mut to_subset = route("bank", "r", parent("web"), ("web", 80));
    to_subset.rules[0].action = RuleAction::Forward(vec![RouteBackend {
        field: "spec.rules[0].backendRefs[0]".into(),
        target: BackendTarget::Subset(name.clone(), 80, "v1".into()),
        weight: 1,
        filters: Filters::default(),
    }]);
    facts.http_routes = vec![to_subset];
    let (snapshot, rejections) = build(&facts);
    assert_eq!(rejections, []);
    let backend = Backend {
        service: name,
        port: 80,
        subset: Some("v1".into()),
        filters: Filters::default(),
    };
    assert!(snapshot.backend(&pod("bank", "client"), &backend).is_some());
    assert!(snapshot.backend(&pod("park", "client"), &backend).is_none());
}

fn kind_of(snapshot: &Snapshot, namespace: &str, dialled: &str) -> String {
    match snapshot.destination(&pod(namespace, "client"), dialled.parse().unwrap()) {
        Destination::Service(upstream) => upstream.service.to_string(),
        Destination::NoSuchPort(service) => format!("no port of {service}"),
        Destination::Workload { workload, .. } => workload.pod_name.to_string(),
        Destination::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn what_is_not_exported_to_a_namespace_is_not_there_for_its_pods() {
    let mut facts = town(Vec::new());
    facts.services[0].traffic.exported_to = to(&["shop"]);
    let (snapshot, rejections) = build(&facts);
    assert_eq!(rejections, []);
    let seen = ["shop", "bank"].map(|namespace| kind_of(&snapshot, namespace, "10.96.0.1:80"));
    assert_eq!(seen, ["shop/web", "unknown"]);
    assert_eq!(kind_of(&snapshot, "bank", "10.96.0.1:81"), "unknown");
    assert_eq!(kind_of(&snapshot, "bank", "10.0.0.1:8080"), "web-1");
    let target = BackendTarget::Service(ServiceName::new("shop", "web"), 80);
    let reached =
        ["shop", "bank"].map(|namespace| snapshot.target(&pod(namespace, "client"), &target).is_some());
    assert_eq!(reached, [true, false]);
    let named = ["shop", "bank"].map(|client| snapshot.names().service(client, "shop", "web").is_some());
    assert_eq!(named, [true, false]);
}

#[test]
fn two_hosts_have_one_address_where_no_client_sees_both() {
    let host = |namespace: &str, age, export| Service {
        name: ServiceName::new(namespace, "a.example.com"),
        meta: meta(&format!("ServiceEntry {namespace}/e"), age),
        traffic: ServiceTraffic {
            exported_to: export,
            ..ServiceTraffic::default()
        },
        ..service("a.example.com", &["192.0.2.1"], AppProtocol::Tcp)
    };
    let bank = || host("bank", 1, to(&["bank"]));
    let facts = Facts {
        services: vec![bank().into(), host("park", 2, to(&["park"])).into()],
        ..Facts::default()
    };
    let (snapshot, rejections) = build(&facts);
    assert_eq!(rejections, []);
    let seen = ["bank", "park", "shop"].map(|namespace| kind_of(&snapshot, namespace, "192.0.2.1:80"));
    assert_eq!(seen, ["bank/a.example.com", "park/a.example.com", "unknown"]);
    let names = snapshot.names();
    assert!(names.host("park", "a.example.com").is_some());
    assert_eq!(names.host("shop", "a.example.com"), None);
    let facts = Facts {
        services: vec![bank().into(), host("park", 2, Export::Everybody).into()],
        ..Facts::default()
    };
    let (snapshot, rejections) = build(&facts);
    assert_eq!(fields(&rejections), [("ServiceEntry park/e", "spec.addresses")]);
    assert_eq!(kind_of(&snapshot, "park", "192.0.2.1:80"), "unknown");
}

#[test]
fn what_a_client_does_not_see_or_a_rule_of_its_own_is_about_never_goes_past_the_agent() {
    let facts = |export, rules| Facts {
        workloads: vec![
            placed("client", "10.0.0.1").into(),
            placed("store", "10.0.0.2").into(),
        ],
        services: vec![
            Service {
                traffic: ServiceTraffic {
                    exported_to: export,
                    ..ServiceTraffic::default()
                },
                ..service("store", &["10.96.0.1"], AppProtocol::Tcp)
            }
            .into(),
        ],
        endpoints: vec![endpoint("store", "10.0.0.2:7000", Ready)],
        destination_rules: rules,
        ..Facts::default()
    };
    let limits = DirectLimits {
        verdicts: 100,
        endpoints: 8,
    };
    let own = DestinationRule {
        export: to(&["shop"]),
        ..rule("a", "shop", HostPattern::All, limited(1))
    };
    for (export, rules, is_direct) in [
        (Export::Everybody, vec![], true),
        (to(&["shop"]), vec![], true),
        (to(&["bank"]), vec![], false),
        (Export::Everybody, vec![own], false),
    ] {
        let (snapshot, _) = build(&facts(export.clone(), rules));
        let found = snapshot.direct_verdicts(|_| true, limits);
        let dialled: SocketAddr = "10.96.0.1:80".parse().unwrap();
        let has_it = found.verdicts.iter().any(|verdict| verdict.dialled == dialled);
        assert_eq!(has_it, is_direct, "{export:?}");
    }
}
