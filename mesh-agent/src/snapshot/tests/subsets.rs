//! Subsets of a Service's endpoints: who is in one, and what it does not share with the Service.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::traffic::{ejecting, limited, rule, vip, web_host};
use super::*;
use crate::balance::Outcome;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::traffic::{DestinationRule, Subset, WrittenPolicy};
use crate::route::Backend;

fn subset(name: &str, version: &str, policy: WrittenPolicy) -> Subset {
    let mut labels = std::collections::BTreeMap::new();
    labels.insert("version".to_owned(), version.to_owned());
    Subset {
        name: name.into(),
        labels,
        policy,
        ports: Vec::new(),
    }
}

/// Service `web`: one pod of version `v1`, two of `v2`, and an address that is no pod's.
fn versions(of_host: WrittenPolicy, subsets: Vec<Subset>) -> Facts {
    let mut facts = web();
    facts.workloads.push(placed("web-3", "10.0.0.3").into());
    for (workload, version) in facts.workloads.iter_mut().zip(["v1", "v2", "v2"]) {
        workload.labels.insert("version".to_owned(), version.to_owned());
    }
    for addr in ["10.0.0.3:8080", "192.0.2.1:8080"] {
        facts.endpoints.push(endpoint("web", addr, Ready));
    }
    facts.destination_rules = vec![DestinationRule {
        subsets,
        ..rule("a", "shop", web_host(), of_host)
    }];
    facts
}

fn backend(subset: Option<&str>) -> Backend {
    Backend {
        service: ServiceName::new("shop", "web"),
        port: 80,
        subset: subset.map(Into::into),
        filters: Filters::default(),
    }
}

fn of<'s>(snapshot: &'s Snapshot, subset: &str) -> &'s Arc<Upstream> {
    snapshot.backend(&client(), &backend(Some(subset))).unwrap()
}

fn addrs(upstream: &Upstream) -> Vec<String> {
    let endpoints = upstream.endpoints().iter();
    endpoints.map(|endpoint| endpoint.addr.to_string()).collect()
}

#[test]
fn a_subset_has_the_endpoints_whose_pods_carry_its_labels() {
    let none = WrittenPolicy::default;
    let subsets = vec![
        subset("v1", "v1", none()),
        subset("v2", "v2", none()),
        subset("v9", "v9", none()),
    ];
    let (snapshot, rejections) = build(&versions(none(), subsets));
    assert_eq!(rejections, []);
    assert_eq!(addrs(of(&snapshot, "v1")), ["10.0.0.1:8080"]);
    assert_eq!(addrs(of(&snapshot, "v2")), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    assert_eq!(addrs(of(&snapshot, "v9")), Vec::<String>::new());
    assert_eq!(
        snapshot
            .backend(&client(), &backend(None))
            .unwrap()
            .endpoints()
            .len(),
        4
    );
    assert!(snapshot.backend(&client(), &backend(Some("other"))).is_none());
    let picked = of(&snapshot, "v9").pick(&request_to(vip()), &mut rand::rng());
    assert_eq!(picked.err(), Some(Unpicked::NoEndpoint));
}

#[test]
fn its_policy_goes_before_the_hosts_part_by_part_and_that_of_its_port_before_both() {
    let mut of_port = subset("port", "v2", limited(3));
    of_port.ports = vec![(80, WrittenPolicy::default())];
    let subsets = vec![
        subset("inherits", "v2", WrittenPolicy::default()),
        subset("other", "v2", ejecting()),
        subset("own", "v2", limited(2)),
        of_port,
    ];
    let (snapshot, _) = build(&versions(limited(1), subsets));
    for (name, limit, is_watched) in [
        ("inherits", 1, false),
        ("other", 1, true),
        ("own", 2, false),
        ("port", 9, false),
    ] {
        let upstream = of(&snapshot, name);
        let held = (0..9).map_while(|_| upstream.pick(&request_to(vip()), &mut rand::rng()).ok());
        assert_eq!(held.collect::<Vec<_>>().len(), limit, "{name}");
        assert_eq!(upstream.sweep(Instant::now()), is_watched, "{name}");
    }
    let whole = snapshot.backend(&client(), &backend(None)).unwrap();
    let held = whole.pick(&request_to(vip()), &mut rand::rng());
    assert!(held.is_ok(), "what subsets carry does not count for the Service");
}

#[test]
fn who_is_ejected_from_a_subset_serves_the_others_and_stays_ejected_in_the_next_snapshot() {
    let subsets = vec![subset("v2", "v2", ejecting()), subset("again", "v2", ejecting())];
    let facts = versions(WrittenPolicy::default(), subsets);
    let (first, _) = build(&facts);
    let mut rng = SmallRng::seed_from_u64(1);
    let bad: SocketAddr = "10.0.0.2:8080".parse().unwrap();
    for _ in 0..100 {
        let mut picked = of(&first, "v2").pick(&request_to(vip()), &mut rng).unwrap();
        let is_bad = picked.endpoint.addr == bad;
        let outcome = if is_bad {
            Outcome::ServerError
        } else {
            Outcome::Good
        };
        picked.pick.done(outcome, Instant::now());
    }
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    let ejected = second.ejected();
    let named: Vec<_> = ejected.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["shop/web:80 subset v2 10.0.0.2:8080 (shop/web-2)"]);
}

#[test]
fn a_route_to_an_unknown_subset_is_named_and_its_share_is_lost() {
    let mut facts = versions(
        WrittenPolicy::default(),
        vec![subset("v1", "v1", WrittenPolicy::default())],
    );
    for (name, expected) in [("v1", "web:80"), ("v8", "invalid")] {
        let mut of_subset = route("shop", "r", parent("web"), ("web", 80));
        let target = BackendTarget::Subset(ServiceName::new("shop", "web"), 80, name.into());
        of_subset.rules[0].action = RuleAction::Forward(vec![RouteBackend {
            field: "spec.http[0].route[0].destination".into(),
            target,
            weight: 1,
            filters: Filters::default(),
        }]);
        facts.http_routes = vec![of_subset];
        let (snapshot, rejections) = build(&facts);
        assert_eq!(routed(&snapshot, "shop").as_deref(), Some(expected));
        let expected: &[_] = if name == "v1" {
            &[]
        } else {
            &[("HTTPRoute shop/r", "spec.http[0].route[0].destination.subset")]
        };
        assert_eq!(fields(&rejections), expected);
    }
}

#[test]
fn who_tells_servers_of_clients_is_the_subset_then_the_rule_and_never_a_port() {
    let says = |proxied| WrittenPolicy {
        proxied,
        ..WrittenPolicy::default()
    };
    let (v1, v2) = (Some(ProxyProtocol::V1), Some(ProxyProtocol::V2));
    let subsets = vec![subset("own", "v1", says(v2)), subset("none", "v2", says(None))];
    let mut facts = versions(says(v1), subsets);
    facts.destination_rules[0].ports = vec![(80, says(None))];
    let (snapshot, rejections) = build(&facts);
    assert_eq!(rejections, []);
    assert_eq!(of(&snapshot, "own").proxied(), v2);
    assert_eq!(of(&snapshot, "none").proxied(), v1);
    let whole = snapshot.backend(&client(), &backend(None)).unwrap();
    assert_eq!(whole.proxied(), v1);
}

#[test]
fn a_tunnel_is_the_subsets_then_the_rules_and_never_a_ports() {
    let to = |target: &str| WrittenPolicy {
        tunnel: Some(target.parse().unwrap()),
        ..WrittenPolicy::default()
    };
    let subsets = vec![
        subset("own", "v1", to("own.example:1")),
        subset("none", "v2", WrittenPolicy::default()),
    ];
    let mut facts = versions(to("rule.example:2"), subsets);
    facts.destination_rules[0].ports = vec![(80, WrittenPolicy::default())];
    let (snapshot, rejections) = build(&facts);
    assert_eq!(rejections, []);
    let leads = |upstream: &Upstream| upstream.tunnel().map(ToString::to_string);
    assert_eq!(leads(of(&snapshot, "own")).as_deref(), Some("own.example:1"));
    assert_eq!(leads(of(&snapshot, "none")).as_deref(), Some("rule.example:2"));
    let whole = snapshot.backend(&client(), &backend(None)).unwrap();
    assert_eq!(leads(whole).as_deref(), Some("rule.example:2"));
}
