//! What goes on as it is in the next snapshot, since nothing changed of it.

use std::collections::BTreeMap;
use std::ptr;

use http::uri::Authority;

use super::traffic::{limited, rule, web_host};
use super::*;
use crate::mesh::export::Export;
use crate::mesh::hedge::Hedge;
use crate::mesh::node::Node;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::traffic::{Nearest, Subset, WrittenPolicy};

/// Service `web` behind which two pods of two zones stand, and Service `other`.
fn two_services() -> Facts {
    let mut facts = web();
    facts
        .services
        .push(service("other", &["10.96.0.2"], AppProtocol::Http).into());
    facts.endpoints.push(endpoint("other", "10.0.0.9:8080", Ready));
    facts.services[0].traffic.nearest = Some(Nearest::Zone);
    facts.nodes = ["node-a", "node-b"].map(node).into();
    facts.workloads[1].node = "node-b".into();
    facts
}

fn node(name: &str) -> Node {
    Node {
        name: name.into(),
        meta: meta(&format!("Node {name}"), 0),
        addrs: Vec::new(),
        locality: Locality {
            region: Some("eu".into()),
            zone: Some(format!("zone-of-{name}").into()),
            node: Some(name.into()),
        },
    }
}

/// What is done to the facts.
type Change = (&'static str, fn(&mut Facts));

/// Whether `web` and `other` go on as they are is asked of `is_same`, after each change.
fn each_concerns_web_alone(facts: &Facts, changes: &[Change], is_same: impl Fn(&Facts) -> [bool; 2]) {
    for (what, change) in changes {
        let mut changed = facts.clone();
        change(&mut changed);
        assert_eq!(is_same(&changed), [false, true], "{what}");
    }
}

#[test]
fn an_upstream_goes_on_as_it_is_until_anything_changes_that_it_is_made_of() {
    let facts = two_services();
    let (first, _) = build(&facts);
    let is_same = |changed: &Facts| {
        let (second, _) = Snapshot::build(changed, &settings(), Some(&first));
        ["web", "other"].map(|name| {
            let name = ServiceName::new("shop", name);
            let of = |snapshot: &Snapshot| Arc::clone(snapshot.upstream(&client(), &name, 80).unwrap());
            Arc::ptr_eq(&of(&first), &of(&second))
        })
    };
    assert_eq!(is_same(&facts), [true, true]);
    assert_eq!(is_same(&two_services()), [true, true], "equal facts, told anew");
    let changes: [Change; 15] = [
        ("an endpoint less", |facts| drop(facts.endpoints.remove(0))),
        ("not ready", |facts| facts.endpoints[0].condition = NotServing),
        ("another address", |facts| {
            facts.endpoints[1].addr = "10.0.0.7:8080".parse().unwrap();
        }),
        ("another weight", |facts| facts.endpoints[0].weight = 2),
        ("meant for a zone", |facts| {
            for endpoint in &mut facts.endpoints[..2] {
                endpoint.place.for_zones = vec!["zone-of-node-a".into()];
            }
        }),
        ("a pod's labels", |facts| {
            facts.workloads[0].labels.insert("a".to_owned(), "b".to_owned());
        }),
        ("a node moves", |facts| {
            facts.nodes[1].locality.zone = Some("zone-of-node-a".into());
        }),
        ("another protocol", |facts| {
            facts.services[0].ports[0].protocol = AppProtocol::Tcp;
        }),
        ("another name of the port", |facts| {
            facts.services[0].ports[0].name = "renamed".into();
            facts.endpoints[0].port_name = "renamed".into();
            facts.endpoints[1].port_name = "renamed".into();
        }),
        ("another algorithm", |facts| {
            facts.services[0].traffic.balancer = Some(BalancerKind::Random);
        }),
        ("nearness", |facts| facts.services[0].traffic.nearest = None),
        ("hedging", |facts| {
            facts.services[0].resilience.hedge = Some(Hedge::default());
        }),
        ("a limit", |facts| {
            facts.destination_rules = vec![rule("a", "shop", web_host(), limited(7))];
        }),
        ("a header for its servers", |facts| {
            let policy = WrittenPolicy {
                proxied: Some(ProxyProtocol::V1),
                ..WrittenPolicy::default()
            };
            facts.destination_rules = vec![rule("a", "shop", web_host(), policy)];
        }),
        ("a tunnel", |facts| {
            let policy = WrittenPolicy {
                tunnel: Some(Authority::from_static("db:1")),
                ..WrittenPolicy::default()
            };
            facts.destination_rules = vec![rule("a", "shop", web_host(), policy)];
        }),
    ];
    each_concerns_web_alone(&facts, &changes, is_same);
}

#[test]
fn a_service_goes_on_as_it_is_until_anything_changes_that_clients_see_of_it() {
    let subset = Subset {
        name: "v1".into(),
        labels: BTreeMap::new(),
        policy: WrittenPolicy::default(),
        ports: Vec::new(),
    };
    let mut facts = two_services();
    facts.workloads.push(pod("bank", "client").into());
    facts.destination_rules = vec![rule("a", "shop", web_host(), WrittenPolicy::default())];
    facts.destination_rules[0].subsets = vec![subset];
    let (first, _) = build(&facts);
    let is_same = |changed: &Facts| {
        let (second, _) = Snapshot::build(changed, &settings(), Some(&first));
        ["web", "other"].map(|name| {
            let name = ServiceName::new("shop", name);
            let of = |snapshot: &Snapshot| ptr::from_ref(snapshot.services.get(&name).unwrap());
            ptr::eq(of(&first), of(&second))
        })
    };
    assert_eq!(is_same(&facts), [true, true]);
    let changes: [Change; 6] = [
        ("an endpoint less", |facts| drop(facts.endpoints.remove(0))),
        ("for whom", |facts| {
            facts.services[0].traffic.exported_to = Export::Namespaces(Arc::from([Arc::from("else")]));
        }),
        ("headless", |facts| facts.services[0].is_headless = true),
        ("another port", |facts| facts.services[0].ports[0].port = 81),
        ("what a subset is called", |facts| {
            facts.destination_rules[0].subsets[0].name = "v2".into();
        }),
        ("a rule for other clients", |facts| {
            let of_clients = rule("b", "bank", web_host(), limited(7));
            facts.destination_rules.push(of_clients);
        }),
    ];
    each_concerns_web_alone(&facts, &changes, is_same);
}

#[test]
fn what_dns_answers_goes_on_as_it_is_while_only_endpoints_behind_cluster_addresses_change() {
    let facts = two_services();
    let (first, _) = build(&facts);
    let is_same = |change: fn(&mut Facts)| {
        let mut changed = facts.clone();
        change(&mut changed);
        let (second, _) = Snapshot::build(&changed, &settings(), Some(&first));
        Arc::ptr_eq(&first.names, &second.names)
    };
    assert!(is_same(|facts| drop(facts.endpoints.remove(0))));
    assert!(!is_same(
        |facts| facts.services[0].vips = vec!["10.96.0.9".parse().unwrap()]
    ));
    assert!(!is_same(|facts| facts.services[0].is_headless = true));
}
