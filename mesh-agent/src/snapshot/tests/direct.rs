//! What may go past the agent.

use super::*;
use crate::mesh::service::AppProtocol::{Detect, Grpc, Http, Http2, Tcp};

const LIMITS: DirectLimits = DirectLimits {
    verdicts: 100,
    endpoints: 8,
};

/// A client and a server of this node, behind Service `store` whose port says `protocol`.
fn store(protocol: AppProtocol) -> Facts {
    Facts {
        workloads: vec![
            placed("client", "10.0.0.1").into(),
            placed("store", "10.0.0.2").into(),
        ],
        services: vec![
            Service {
                traffic: ServiceTraffic::default(),
                ..service("store", &["10.96.0.1"], protocol)
            }
            .into(),
        ],
        endpoints: vec![endpoint("store", "10.0.0.2:7000", Ready)],
        ..Facts::default()
    }
}

/// What the pod `source` may dial directly, as text, but for the well-known ports of pod addresses.
fn verdicts(facts: &Facts, source: &str, is_present: impl Fn(&str) -> bool) -> Vec<String> {
    let (snapshot, _) = build(facts);
    let found = snapshot.direct_verdicts(|uid| is_present(&uid.to_string()), LIMITS);
    found
        .verdicts
        .iter()
        .filter(|verdict| verdict.source.to_string() == format!("shop/{source}"))
        .filter(|verdict| !AppProtocol::WELL_KNOWN_TCP.contains(&verdict.dialled.port()))
        .map(|verdict| format!("{} to {:?}", verdict.dialled, verdict.endpoints))
        .collect()
}

fn of_client(facts: &Facts) -> Vec<String> {
    verdicts(facts, "client", |_| true)
}

const BOTH: [&str; 2] = [
    "10.0.0.2:7000 to [10.0.0.2:7000]",
    "10.96.0.1:80 to [10.0.0.2:7000]",
];
const NONE: [&str; 0] = [];

#[test]
fn an_opaque_service_of_pods_of_this_node_is_dialled_directly_and_so_are_they() {
    assert_eq!(of_client(&store(Tcp)), BOTH);
}

#[test]
fn whatever_is_or_may_be_http_goes_to_the_agent() {
    for protocol in [Http, Http2, Grpc, Detect] {
        assert_eq!(of_client(&store(protocol)), NONE, "{protocol:?}");
    }
}

#[test]
fn well_known_ports_of_pods_are_opaque_without_a_service() {
    let (snapshot, _) = build(&Facts {
        services: Vec::new(),
        endpoints: Vec::new(),
        ..store(Tcp)
    });
    let found = snapshot.direct_verdicts(|_| true, LIMITS);
    let to_store = |port: u16| SocketAddr::from(([10, 0, 0, 2], port));
    let mut dialled = found.verdicts.iter().map(|verdict| verdict.dialled);
    assert!(dialled.any(|dialled| dialled == to_store(6379)));
    assert_eq!(found.verdicts.len(), 2 * AppProtocol::WELL_KNOWN_TCP.len());
}

#[test]
fn a_pod_does_not_dial_itself_directly() {
    assert_eq!(verdicts(&store(Tcp), "store", |_| true), NONE);
}

#[test]
fn a_pod_whose_hooks_are_not_in_place_is_at_neither_end() {
    let facts = store(Tcp);
    for absent in ["shop/client", "shop/store"] {
        assert_eq!(verdicts(&facts, "client", |uid| uid != absent), NONE, "{absent}");
    }
}

#[test]
fn one_endpoint_that_is_not_a_pod_of_this_node_takes_the_service_to_the_agent() {
    let outside = Workload {
        membership: Membership::Outside,
        ..placed("outside", "10.0.0.3")
    };
    let elsewhere = Workload {
        node: "node-b".into(),
        ..placed("elsewhere", "10.0.0.3")
    };
    for (what, third) in [
        ("outside the mesh", Some(outside)),
        ("of another node", Some(elsewhere)),
        ("no pod", None),
    ] {
        let mut facts = store(Tcp);
        facts.workloads.extend(third.map(Shared::from));
        facts.endpoints.push(endpoint("store", "10.0.0.3:7000", Ready));
        // The pod itself may still be dialled.
        assert_eq!(of_client(&facts), BOTH[..1], "{what}");
    }
}

#[test]
fn endpoints_that_are_not_used_do_not_count() {
    let mut facts = store(Tcp);
    facts
        .endpoints
        .push(endpoint("store", "10.9.9.9:7000", NotServing));
    assert_eq!(of_client(&facts), BOTH);
}

#[test]
fn eight_endpoints_are_a_verdict_and_nine_are_not() {
    for (count, is_direct) in [(8_u8, true), (9, false)] {
        let mut facts = store(Tcp);
        for number in 3..=count + 1 {
            let addr = format!("10.0.0.{number}");
            facts
                .workloads
                .push(placed(&format!("store-{number}"), &addr).into());
            facts
                .endpoints
                .push(endpoint("store", &format!("{addr}:7000"), Ready));
        }
        let to_service = |verdict: &String| verdict.starts_with("10.96.0.1:80 ");
        assert_eq!(of_client(&facts).iter().any(to_service), is_direct, "{count}");
    }
}

#[test]
fn a_turn_that_was_asked_for_is_the_agents_to_keep() {
    let mut facts = store(Tcp);
    facts.services[0].traffic.balancer = Some(BalancerKind::RoundRobin);
    assert_eq!(of_client(&facts), BOTH, "one endpoint has no turn");
    facts.workloads.push(placed("store-2", "10.0.0.3").into());
    facts.endpoints.push(endpoint("store", "10.0.0.3:7000", Ready));
    assert_eq!(of_client(&facts).len(), 2, "only the pods' own addresses");
}

#[test]
fn families_do_not_mix() {
    let mut facts = store(Tcp);
    facts.services[0].vips.push("fd00:96::1".parse().unwrap());
    assert_eq!(of_client(&facts), BOTH, "no endpoint has an IPv6 address");
    facts.workloads[1].addrs.push("fd00::2".parse().unwrap());
    facts.endpoints.push(endpoint("store", "[fd00::2]:7000", Ready));
    let wanted = [
        BOTH[0],
        BOTH[1],
        "[fd00::2]:7000 to [[fd00::2]:7000]",
        "[fd00:96::1]:80 to [[fd00::2]:7000]",
    ];
    assert_eq!(of_client(&facts), wanted);
}

#[test]
fn a_route_takes_the_service_to_the_agent_and_ends_what_is_under_way() {
    let mut facts = store(Tcp);
    facts.http_routes = vec![route("shop", "all", parent("store"), ("store", 80))];
    let (snapshot, _) = build(&facts);
    let client = snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap();
    assert_eq!(of_client(&facts), BOTH[..1]);
    let passage = snapshot.is_opaque_to(client, "10.96.0.1:80".parse().unwrap());
    assert_eq!(passage, Passage::Forbidden("routed"));
}

#[test]
fn what_is_under_way_ends_when_its_port_becomes_http_and_not_when_it_becomes_unsaid() {
    for (protocol, passage) in [
        (Tcp, Passage::Direct),
        (Detect, Passage::ThroughAgent),
        (Http, Passage::Forbidden("http")),
        (Http2, Passage::Forbidden("http")),
        (Grpc, Passage::Forbidden("http")),
    ] {
        let (snapshot, _) = build(&store(protocol));
        let client = snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap();
        for dialled in ["10.96.0.1:80", "10.0.0.2:7000"] {
            let found = snapshot.is_opaque_to(client, dialled.parse().unwrap());
            assert_eq!(found, passage, "{dialled} {protocol:?}");
        }
    }
}

#[test]
fn a_service_that_is_gone_takes_nothing_with_it() {
    let (snapshot, _) = build(&Facts {
        services: Vec::new(),
        ..store(Tcp)
    });
    let client = snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap();
    let passage = snapshot.is_opaque_to(client, "10.96.0.1:80".parse().unwrap());
    assert_eq!(passage, Passage::ThroughAgent);
}

#[test]
fn a_pair_may_where_both_are_enrolled_and_the_port_is_not_excluded() {
    let (client, store) = (placed("client", "10.0.0.1"), placed("store", "10.0.0.2"));
    let outside = Workload {
        membership: Membership::Outside,
        ..client.clone()
    };
    let mut excluding = store.clone();
    excluding.exclusions.inbound_ports = [7000].into();
    let (snapshot, _) = build(&Facts::default());
    for (what, source, destination, passage) in [
        ("two pods", &client, &store, Passage::Direct),
        ("itself", &client, &client, Passage::ThroughAgent),
        ("from outside", &outside, &store, Passage::ThroughAgent),
        ("to outside", &store, &outside, Passage::ThroughAgent),
        ("to an excluded port", &client, &excluding, Passage::ThroughAgent),
    ] {
        let found = snapshot.may_go_direct(source, destination, 7000);
        assert_eq!(found, passage, "{what}");
    }
}

#[test]
fn verdicts_that_find_no_room_are_counted_and_not_made() {
    let (snapshot, _) = build(&store(Tcp));
    let all = snapshot.direct_verdicts(|_| true, LIMITS);
    let some = snapshot.direct_verdicts(
        |_| true,
        DirectLimits {
            verdicts: 3,
            ..LIMITS
        },
    );
    assert_eq!(all.left_out, 0);
    assert_eq!(some.verdicts, all.verdicts[..3]);
    assert_eq!(some.left_out, all.verdicts.len() - 3);
}

#[test]
fn a_custom_policy_takes_a_pair_off_the_fast_path_and_ends_what_is_on_it() {
    use super::authorization::{asking, custom};
    use crate::mesh::policy::external::{CheckProtocol, GrpcCheck};

    let mut facts = store(Tcp);
    assert_eq!(of_client(&facts), BOTH);
    facts.mesh_configs = vec![asking(CheckProtocol::Grpc(GrpcCheck::default()))];
    facts.authorization_policies = vec![custom()];
    assert!(of_client(&facts).is_empty());
    let (snapshot, _) = build(&facts);
    let [client, store] =
        ["10.0.0.1", "10.0.0.2"].map(|addr| snapshot.workload_at(addr.parse().unwrap()).unwrap());
    let passage = snapshot.may_go_direct(client, store, 7000);
    assert_eq!(passage, Passage::Forbidden("authorization"));
}

#[test]
fn a_pair_may_where_authorization_lets_its_bytes_in_and_has_nothing_to_record() {
    use super::authorization::{on_trial, policy};
    use crate::mesh::policy::authorization::{PolicyAction, TextAttribute};

    let (client, store) = (placed("client", "10.0.0.1"), placed("store", "10.0.0.2"));
    let own = "cluster.local/ns/shop/sa/default";
    let of = |action, name| policy(action, TextAttribute::Principal, name);
    for (what, policies, passage) in [
        ("none", vec![], Passage::Direct),
        ("ALLOW", vec![of(PolicyAction::Allow, own)], Passage::Direct),
        (
            "DENY of another",
            vec![of(PolicyAction::Deny, "other")],
            Passage::Direct,
        ),
        (
            "DENY",
            vec![of(PolicyAction::Deny, own)],
            Passage::Forbidden("authorization"),
        ),
        (
            "ALLOW of another",
            vec![of(PolicyAction::Allow, "other")],
            Passage::Forbidden("authorization"),
        ),
        (
            "DENY of a path",
            vec![policy(PolicyAction::Deny, TextAttribute::Path, "/a")],
            Passage::Forbidden("authorization"),
        ),
        ("AUDIT", vec![of(PolicyAction::Audit, own)], Passage::ThroughAgent),
        (
            "a dry run",
            vec![on_trial(of(PolicyAction::Deny, own))],
            Passage::ThroughAgent,
        ),
    ] {
        let (snapshot, _) = build(&Facts {
            workloads: vec![client.clone().into(), store.clone().into()],
            authorization_policies: policies,
            ..Facts::default()
        });
        assert_eq!(snapshot.may_go_direct(&client, &store, 7000), passage, "{what}");
    }
}
