//! Who is picked by where endpoints run, and of whom the kernel may choose.

use super::traffic::{ejecting, limited, rule, upstream, vip, web_host};
use super::*;
use crate::mesh::node::Node;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::traffic::{
    Limits, LocalityPolicy, Nearest, RegionFailover, Warmup, WrittenBalancer, WrittenPolicy,
};
use http::uri::Authority;

/// The first pod of `web` runs on this node, the other on another one, in another zone.
fn spread_over_nodes() -> Facts {
    let mut facts = web();
    facts.workloads[1].node = "node-b".into();
    let node = |name: &str, zone: &str| Node {
        name: name.into(),
        meta: meta(&format!("Node {name}"), 0),
        addrs: Vec::new(),
        locality: Locality {
            region: Some("eu".into()),
            zone: Some(zone.into()),
            node: Some(name.into()),
        },
    };
    facts.nodes = vec![node("node-a", "eu-a"), node("node-b", "eu-b")];
    facts
}

fn picked_of(facts: &Facts) -> Vec<String> {
    let (snapshot, _) = build(facts);
    let upstream = upstream(&snapshot);
    let picks = (0..20).filter_map(|_| upstream.pick(&request_to(vip()), &mut rand::rng()).ok());
    let mut picked: Vec<_> = picks
        .map(|picked| picked.endpoint.addr.ip().to_string())
        .collect();
    picked.sort();
    picked.dedup();
    picked
}

#[test]
fn near_endpoints_are_picked_where_the_service_or_a_rule_asks_for_it() {
    let mut facts = spread_over_nodes();
    assert_eq!(picked_of(&facts), ["10.0.0.1", "10.0.0.2"]);
    for nearest in [Nearest::Zone, Nearest::Node] {
        facts.services[0].traffic.nearest = Some(nearest);
        assert_eq!(picked_of(&facts), ["10.0.0.1"]);
    }
    facts.services[0].traffic.nearest = None;
    let failover = WrittenPolicy {
        load_balancer: Some(WrittenBalancer {
            locality: Some(LocalityPolicy::Failover(Vec::<RegionFailover>::new())),
            ..WrittenBalancer::default()
        }),
        ..WrittenPolicy::default()
    };
    for policy in [failover, ejecting()] {
        facts.destination_rules = vec![rule("a", "shop", web_host(), policy)];
        assert_eq!(picked_of(&facts), ["10.0.0.1"]);
    }
    // What is near and not ready is not there.
    facts.endpoints[0].condition = NotServing;
    assert_eq!(picked_of(&facts), ["10.0.0.2"]);
}

#[test]
fn an_endpoint_without_a_pod_is_where_its_slice_says() {
    let mut facts = spread_over_nodes();
    facts.services[0].traffic.nearest = Some(Nearest::Zone);
    facts.workloads.clear();
    assert_eq!(picked_of(&facts), ["10.0.0.1", "10.0.0.2"]);
    facts.endpoints[0].place.zone = Some("eu-b".into());
    facts.endpoints[1].place.node = Some("node-a".into());
    assert_eq!(picked_of(&facts), ["10.0.0.2"]);
}

#[test]
fn a_local_service_has_no_endpoints_but_those_of_the_node() {
    let mut facts = spread_over_nodes();
    facts.services[0].traffic.is_local_only = true;
    assert_eq!(picked_of(&facts), ["10.0.0.1"]);
    facts.workloads[0].node = "node-b".into();
    assert!(picked_of(&facts).is_empty());
}

#[test]
fn the_kernel_chooses_only_where_any_endpoint_will_do() {
    let warm = WrittenPolicy {
        load_balancer: Some(WrittenBalancer {
            warmup: Some(Warmup {
                duration: Duration::from_mins(1),
                minimum_percent: 10,
                aggression_milli: 1000,
            }),
            ..WrittenBalancer::default()
        }),
        ..WrittenPolicy::default()
    };
    let limits = |limits| WrittenPolicy {
        limits: Some(limits),
        ..WrittenPolicy::default()
    };
    let connections = limits(Limits {
        connections: Some(5),
        ..Limits::default()
    });
    let brief = limits(Limits {
        opaque_duration: Some(Duration::from_mins(1)),
        ..Limits::default()
    });
    let tunnelled = WrittenPolicy {
        tunnel: Some(Authority::from_static("db:1")),
        ..WrittenPolicy::default()
    };
    let told = WrittenPolicy {
        proxied: Some(ProxyProtocol::V2),
        ..WrittenPolicy::default()
    };
    let open_of = |facts: &Facts| {
        let (snapshot, _) = build(facts);
        upstream(&snapshot).open_to_kernel(true).map(|open| open.len())
    };
    let mut facts = spread_over_nodes();
    facts.services[0].traffic.balancer = Some(BalancerKind::Random);
    assert_eq!(open_of(&facts), Some(2));
    for (policy, open) in [
        (limited(5), Some(2)),
        (connections, None),
        (brief, None),
        (ejecting(), None),
        (warm, None),
        (tunnelled, None),
        (told, None),
    ] {
        facts.destination_rules = vec![rule("a", "shop", web_host(), policy.clone())];
        assert_eq!(open_of(&facts), open, "{policy:?}");
    }
    facts.destination_rules.clear();
    for balancer in [BalancerKind::RoundRobin, BalancerKind::PeakEwma] {
        facts.services[0].traffic.balancer = Some(balancer.clone());
        assert_eq!(open_of(&facts), None, "{balancer:?}");
    }
    facts.services[0].traffic.balancer = None;
    facts.services[0].traffic.nearest = Some(Nearest::Zone);
    assert_eq!(open_of(&facts), Some(1), "only those that are near");
    facts.services[0].traffic.nearest = None;
    facts.services[0].traffic.has_affinity = true;
    assert_eq!(open_of(&facts), None);
}
