//! What a snapshot promises: lookups, endpoint selection, what survives a rebuild, what contradictions do.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::mesh::facts::{Facts, ObjectMeta, Rejection};
use crate::mesh::route::{
    BackendTarget, HttpMatch, HttpRoute, HttpRule, PathMatch, RouteBackend, RouteParent,
};
use crate::mesh::service::{BalancerKind, Endpoint, EndpointCondition, Service, ServicePort};
use crate::mesh::workload::fixture::pod;
use crate::mesh::workload::{Membership, Placement};
use crate::route::{BackendChoice, RequestFacts};

use EndpointCondition::{NotServing, Ready, ServingTerminating};

fn meta(object: &str, age: u64) -> Arc<ObjectMeta> {
    let created = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(age));
    Arc::new(ObjectMeta {
        origin: "test".into(),
        object: object.into(),
        created,
    })
}

fn pod_at(name: &str, addrs: &[&str]) -> Workload {
    Workload {
        addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
        ..pod("shop", name)
    }
}

fn placed(name: &str, addr: &str) -> Workload {
    let placement = Placement {
        netns: format!("/run/netns/{name}").into(),
        cgroup: format!("/cg/{name}").into(),
    };
    Workload {
        placement: Some(placement),
        ..pod_at(name, &[addr])
    }
}

fn service(name: &str, vips: &[&str], protocol: AppProtocol) -> Service {
    Service {
        name: ServiceName::new("shop", name),
        meta: meta(&format!("Service shop/{name}"), 0),
        vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        ports: vec![ServicePort {
            name: "main".into(),
            port: 80,
            protocol,
        }],
        balancer: BalancerKind::RoundRobin,
    }
}

fn endpoint(service: &str, addr: &str, condition: EndpointCondition) -> Endpoint {
    Endpoint {
        service: ServiceName::new("shop", service),
        meta: meta(&format!("EndpointSlice shop/{service}"), 0),
        port_name: "main".into(),
        addr: addr.parse().unwrap(),
        condition,
        workload: None,
    }
}

fn route(namespace: &str, name: &str, parent: RouteParent, backend: (&str, u16)) -> HttpRoute {
    let everything = HttpMatch {
        path: PathMatch::Prefix("/".into()),
        headers: Vec::new(),
        method: None,
    };
    let target = BackendTarget::Service(ServiceName::new("shop", backend.0), backend.1);
    HttpRoute {
        namespace: namespace.into(),
        name: name.into(),
        meta: meta(&format!("HTTPRoute {namespace}/{name}"), 0),
        parents: vec![parent],
        rules: vec![HttpRule {
            matches: vec![everything],
            backends: vec![RouteBackend {
                field: "spec.rules[0].backendRefs[0]".into(),
                target,
                weight: 1,
            }],
            request_timeout: None,
        }],
    }
}

fn parent(service: &str) -> RouteParent {
    RouteParent {
        field: "spec.parentRefs[0]".into(),
        service: ServiceName::new("shop", service),
        port: None,
        section: None,
    }
}

fn settings() -> SnapshotSettings {
    SnapshotSettings {
        node: "node-a".into(),
        root_namespace: "mesh-system".into(),
    }
}

fn build(facts: &Facts) -> (Snapshot, Vec<Rejection>) {
    Snapshot::build(facts, &settings(), None)
}

/// Two pods behind Service `web`.
fn web() -> Facts {
    Facts {
        workloads: vec![placed("web-1", "10.0.0.1"), placed("web-2", "10.0.0.2")],
        services: vec![service("web", &["10.96.0.1"], AppProtocol::Http)],
        endpoints: vec![
            endpoint("web", "10.0.0.1:8080", Ready),
            endpoint("web", "10.0.0.2:8080", Ready),
        ],
        ..Facts::default()
    }
}

fn fields(rejections: &[Rejection]) -> Vec<(&str, &str)> {
    rejections
        .iter()
        .map(|rejection| (rejection.object.as_str(), rejection.field.as_str()))
        .collect()
}

fn usable(snapshot: &Snapshot, service: &str) -> Vec<String> {
    let upstream = snapshot.upstream(&ServiceName::new("shop", service), 80).unwrap();
    upstream
        .endpoints()
        .iter()
        .map(|endpoint| endpoint.addr.to_string())
        .collect()
}

/// The backend that a client of a namespace reaches through a route to Service `web`.
fn routed(snapshot: &Snapshot, client_namespace: &str) -> Option<String> {
    let upstream = snapshot.upstream(&ServiceName::new("shop", "web"), 80).unwrap();
    let request = RequestFacts {
        method: "GET",
        path: "/",
        headers: &HeaderMap::new(),
    };
    let table = snapshot.routes(client_namespace, upstream)?;
    match table.decide(&request).unwrap().choose_backend(&mut rand::rng()) {
        BackendChoice::Service(service, port) => Some(format!("{}:{port}", service.name)),
        BackendChoice::Invalid => Some("invalid".to_owned()),
    }
}

#[test]
fn a_destination_is_what_the_address_belongs_to() {
    let (snapshot, rejections) = build(&web());
    assert_eq!(rejections, []);
    for (addr, expected) in [
        ("10.96.0.1:80", "service shop/web:80"),
        ("[::ffff:10.96.0.1]:80", "service shop/web:80"),
        ("10.96.0.1:81", "no such port of shop/web"),
        ("10.0.0.1:8080", "pod web-1 Http of web"),
        ("[::ffff:10.0.0.1]:8080", "pod web-1 Http of web"),
        ("10.0.0.1:9", "pod web-1 Detect of nobody"),
        ("10.0.0.1:3306", "pod web-1 Tcp of nobody"),
        ("192.0.2.1:80", "unknown"),
    ] {
        let found = match snapshot.destination(addr.parse().unwrap()) {
            Destination::Service(upstream) => format!("service {}:{}", upstream.service, upstream.port),
            Destination::NoSuchPort(service) => format!("no such port of {service}"),
            Destination::Workload {
                workload,
                protocol,
                service,
            } => {
                let service = service.map_or_else(|| "nobody".into(), |service| service.name);
                format!("pod {} {protocol:?} of {service}", workload.pod_name)
            }
            Destination::Unknown => "unknown".to_owned(),
        };
        assert_eq!(found, expected, "{addr}");
    }
}

#[test]
fn local_pods_are_enrolled_placed_addressed_and_of_this_node() {
    let mut facts = Facts {
        workloads: vec![placed("b", "10.0.0.2"), placed("a", "10.0.0.1")],
        ..Facts::default()
    };
    facts.workloads.push(Workload {
        node: "node-b".into(),
        ..placed("elsewhere", "10.0.0.3")
    });
    facts.workloads.push(Workload {
        membership: Membership::Outside,
        ..placed("outside", "10.0.0.4")
    });
    facts.workloads.push(Workload {
        addrs: Vec::new(),
        ..placed("starting", "10.0.0.5")
    });
    facts.workloads.push(pod_at("unplaced", &["10.0.0.6"]));
    let (snapshot, _) = build(&facts);
    let names: Vec<_> = snapshot
        .local()
        .iter()
        .map(|workload| workload.pod_name.as_ref())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(snapshot.workloads().len(), 6);
}

#[test]
fn pods_of_the_host_network_own_no_address() {
    let host = Workload {
        host_network: true,
        ..pod_at("host", &["10.0.0.1"])
    };
    let facts = Facts {
        workloads: vec![host, pod_at("z", &["10.0.0.1"])],
        ..Facts::default()
    };
    let (snapshot, rejections) = build(&facts);
    assert_eq!(rejections, []);
    assert_eq!(
        snapshot
            .workload_at("10.0.0.1".parse().unwrap())
            .unwrap()
            .pod_name
            .as_ref(),
        "z"
    );
}

#[test]
fn only_the_right_endpoints_are_used() {
    for (conditions, expected) in [
        (vec![Ready, Ready], vec!["10.0.0.1:1", "10.0.0.2:1"]),
        (vec![Ready, ServingTerminating, NotServing], vec!["10.0.0.1:1"]),
        (vec![NotServing, ServingTerminating], vec!["10.0.0.2:1"]),
        (vec![NotServing], vec![]),
        (vec![], vec![]),
    ] {
        let endpoints = (1..)
            .zip(&conditions)
            .map(|(n, c)| endpoint("web", &format!("10.0.0.{n}:1"), *c))
            .collect();
        let services = vec![service("web", &["10.96.0.1"], AppProtocol::Http)];
        let (snapshot, _) = build(&Facts {
            services,
            endpoints,
            ..Facts::default()
        });
        assert_eq!(usable(&snapshot, "web"), expected, "{conditions:?}");
    }
}

#[test]
fn an_address_in_two_slices_is_one_endpoint_with_the_better_condition() {
    let mut facts = web();
    facts
        .endpoints
        .insert(0, endpoint("web", "10.0.0.1:8080", NotServing));
    facts
        .endpoints
        .push(endpoint("web", "[::ffff:10.0.0.2]:8080", NotServing));
    let (snapshot, _) = build(&facts);
    assert_eq!(usable(&snapshot, "web"), ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[test]
fn picks_the_family_that_was_dialled_and_the_other_one_in_need() {
    let mut facts = web();
    facts.endpoints = vec![
        endpoint("web", "10.0.0.1:8080", Ready),
        endpoint("web", "[fd00::1]:8080", Ready),
    ];
    let (both, _) = build(&facts);
    facts.endpoints.pop();
    let (only_v4, _) = build(&facts);
    let mut rng = SmallRng::seed_from_u64(0);
    for (snapshot, dialled, expected) in [
        (&both, "10.96.0.1", "10.0.0.1:8080"),
        (&both, "::ffff:10.96.0.1", "10.0.0.1:8080"),
        (&both, "fd96::1", "[fd00::1]:8080"),
        (&only_v4, "fd96::1", "10.0.0.1:8080"),
    ] {
        let upstream = snapshot.upstream(&ServiceName::new("shop", "web"), 80).unwrap();
        let picked = upstream.pick(dialled.parse().unwrap(), &mut rng).unwrap();
        assert_eq!(picked.endpoint.addr.to_string(), expected, "{dialled}");
    }
}

#[test]
fn services_that_disagree_leave_a_pods_port_to_detection() {
    let mut facts = web();
    facts.services.push(service("admin", &[], AppProtocol::Tcp));
    facts.endpoints.push(endpoint("admin", "10.0.0.1:8080", Ready));
    let (snapshot, _) = build(&facts);
    let at = |addr: &str| {
        let workload = snapshot.workload_at(addr.parse().unwrap()).unwrap();
        let InboundPort { protocol, service } = snapshot.inbound(workload, 8080);
        (protocol, service.unwrap().name.to_string())
    };
    assert_eq!(at("10.0.0.1"), (AppProtocol::Detect, "admin".to_owned()));
    assert_eq!(at("10.0.0.2"), (AppProtocol::Http, "web".to_owned()));
}

#[test]
fn consumer_routes_replace_producer_routes_for_their_own_namespace_only() {
    let mut facts = web();
    facts
        .services
        .push(service("v2", &["10.96.0.2"], AppProtocol::Http));
    assert_eq!(
        routed(&build(&facts).0, "shop"),
        None,
        "no routes: plain forwarding"
    );
    facts.http_routes = vec![
        route("shop", "p", parent("web"), ("web", 80)),
        route("bank", "c", parent("web"), ("v2", 80)),
    ];
    let (snapshot, rejections) = build(&facts);
    assert_eq!(rejections, []);
    assert_eq!(routed(&snapshot, "shop").as_deref(), Some("web:80"));
    assert_eq!(routed(&snapshot, "other").as_deref(), Some("web:80"));
    assert_eq!(routed(&snapshot, "bank").as_deref(), Some("v2:80"));
}

#[test]
fn a_route_that_refers_to_nothing_is_named_by_field() {
    for (parent, backend, field, result) in [
        (parent("none"), ("web", 80), "spec.parentRefs[0].name", None),
        (parent("bare"), ("web", 80), "spec.parentRefs[0].name", None),
        (
            RouteParent {
                port: Some(9),
                ..parent("web")
            },
            ("web", 80),
            "spec.parentRefs[0].port",
            None,
        ),
        (
            RouteParent {
                section: Some("x".into()),
                ..parent("web")
            },
            ("web", 80),
            "spec.parentRefs[0].sectionName",
            None,
        ),
        (
            parent("web"),
            ("none", 80),
            "spec.rules[0].backendRefs[0].name",
            Some("invalid"),
        ),
        (
            parent("web"),
            ("web", 9),
            "spec.rules[0].backendRefs[0].port",
            Some("invalid"),
        ),
    ] {
        let mut facts = web();
        facts.services.push(service("bare", &[], AppProtocol::Http));
        facts.http_routes = vec![route("shop", "r", parent, backend)];
        let (snapshot, rejections) = build(&facts);
        assert_eq!(fields(&rejections), [("HTTPRoute shop/r", field)]);
        assert_eq!(routed(&snapshot, "shop").as_deref(), result, "{field}");
    }
}

#[test]
fn a_contradiction_is_settled_for_the_elder_whatever_the_order() {
    let mut facts = web();
    facts.services.push(Service {
        meta: meta("Service shop/late", 9),
        ..service("late", &["10.96.0.1"], AppProtocol::Http)
    });
    facts.workloads.push(Workload {
        meta: meta("Pod shop/late", 9),
        ..pod_at("late", &["10.0.0.1"])
    });
    for workload in facts.workloads.iter_mut().take(2) {
        workload.meta = meta(&workload.meta.object, 1);
    }
    for _ in 0..2 {
        facts.services.reverse();
        facts.workloads.reverse();
        let (snapshot, rejections) = build(&facts);
        assert_eq!(
            fields(&rejections),
            [
                ("Pod shop/late", "status.podIPs"),
                ("Service shop/late", "spec.clusterIPs")
            ]
        );
        assert_eq!(
            snapshot
                .workload_at("10.0.0.1".parse().unwrap())
                .unwrap()
                .pod_name
                .as_ref(),
            "web-1"
        );
        let Destination::Service(upstream) = snapshot.destination("10.96.0.1:80".parse().unwrap()) else {
            panic!()
        };
        assert_eq!(upstream.service.name.as_ref(), "web");
    }
}

#[test]
fn a_namespace_or_cgroup_is_captured_for_one_pod_only() {
    let mut twin = placed("web-9", "10.0.0.9");
    twin.placement = placed("web-1", "10.0.0.1").placement;
    let mut facts = web();
    facts.workloads.push(twin);
    let (snapshot, rejections) = build(&facts);
    assert_eq!(fields(&rejections), [("Pod shop/web-9", "metadata.annotations")]);
    assert_eq!(snapshot.local().len(), 2);
}

#[test]
fn an_endpoint_is_used_only_if_the_pod_it_names_is_known_there() {
    for (uid, expected, is_rejected) in [
        (Some("shop/web-1"), true, false),
        (None, true, false),
        (Some("shop/web-2"), false, true),
        (Some("gone"), false, true),
    ] {
        let mut facts = web();
        facts.endpoints.truncate(1);
        facts.endpoints[0].workload = uid.map(WorkloadUid::new);
        let (snapshot, rejections) = build(&facts);
        assert_eq!(!usable(&snapshot, "web").is_empty(), expected, "{uid:?}");
        assert_eq!(!rejections.is_empty(), is_rejected, "{uid:?}");
    }
}

#[test]
fn endpoints_of_nothing_are_named_once_a_slice() {
    let mut facts = web();
    facts.endpoints.push(endpoint("none", "10.0.0.1:1", Ready));
    facts.endpoints.push(endpoint("none", "10.0.0.2:1", Ready));
    facts.endpoints.push(Endpoint {
        port_name: "typo".into(),
        ..endpoint("web", "10.0.0.2:1", Ready)
    });
    let (_, rejections) = build(&facts);
    assert_eq!(
        fields(&rejections),
        [
            ("EndpointSlice shop/none", "ports"),
            ("EndpointSlice shop/web", "ports")
        ]
    );
}

#[test]
fn loads_and_turns_and_unchanged_pods_survive_a_rebuild() {
    let mut facts = web();
    let (first, _) = build(&facts);
    let mut rng = SmallRng::seed_from_u64(0);
    let name = ServiceName::new("shop", "web");
    let vip: IpAddr = "10.96.0.1".parse().unwrap();
    let held = first.upstream(&name, 80).unwrap().pick(vip, &mut rng).unwrap();
    facts.workloads[1]
        .labels
        .insert("app".to_owned(), "changed".to_owned());
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    assert_eq!((first.version(), second.version()), (1, 2));

    let same = second.upstream(&name, 80).unwrap().pick(vip, &mut rng).unwrap();
    assert_ne!(same.endpoint.addr, held.endpoint.addr, "the turn goes on");
    let again = second.upstream(&name, 80).unwrap().pick(vip, &mut rng).unwrap();
    assert_eq!(again.endpoint.addr, held.endpoint.addr);
    assert_eq!(again.endpoint.active(), 2, "the first pick still counts");

    for (uid, is_same) in [("shop/web-1", true), ("shop/web-2", false)] {
        let uid = WorkloadUid::new(uid);
        let pair = (first.workload(&uid).unwrap(), second.workload(&uid).unwrap());
        assert_eq!(Arc::ptr_eq(pair.0, pair.1), is_same, "{uid}");
    }
}

#[test]
fn a_new_pod_at_an_old_address_begins_with_no_load() {
    let mut facts = web();
    facts.endpoints.truncate(1);
    let (first, _) = build(&facts);
    let name = ServiceName::new("shop", "web");
    let vip: IpAddr = "10.96.0.1".parse().unwrap();
    let _held = first
        .upstream(&name, 80)
        .unwrap()
        .pick(vip, &mut rand::rng())
        .unwrap();
    facts.workloads[0].uid = WorkloadUid::new("shop/web-1-again");
    let (second, _) = Snapshot::build(&facts, &settings(), Some(&first));
    assert_eq!(second.upstream(&name, 80).unwrap().endpoints()[0].active(), 0);
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

proptest! {
    #[test]
    fn whatever_the_facts_no_address_is_used_twice_and_the_build_is_repeatable(
        endpoints in prop::collection::vec((0..3_u8, 0..6_u8, 0..3_u8, prop::option::of(0..6_u8)), 0..40),
        pods in prop::collection::vec((0..6_u8, 0..6_u8, any::<bool>()), 0..8),
        vips in prop::collection::vec(0..3_u8, 0..4),
    ) {
        let mut facts = Facts::default();
        for (uid, addr, host_network) in pods {
            let mut workload = pod_at(&format!("p{uid}"), &[&format!("10.0.0.{addr}")]);
            workload.host_network = host_network;
            facts.workloads.push(workload);
        }
        for (n, vip) in vips.iter().enumerate() {
            facts.services.push(service(&format!("s{}", n % 3), &[&format!("10.96.0.{vip}")], AppProtocol::Http));
        }
        for (of, addr, condition, uid) in endpoints {
            let condition = [Ready, ServingTerminating, NotServing][usize::from(condition)];
            let mut endpoint = endpoint(&format!("s{of}"), &format!("10.0.0.{addr}:80"), condition);
            endpoint.workload = uid.map(|uid| WorkloadUid::new(&format!("shop/p{uid}")));
            facts.endpoints.push(endpoint);
        }
        // Only objects of two places may bear one name.
        for (n, workload) in facts.workloads.iter_mut().enumerate() {
            workload.meta = Arc::new(ObjectMeta { origin: format!("{n}").into(), ..(*workload.meta).clone() });
        }
        let (snapshot, rejections) = build(&facts);
        for upstream in snapshot.upstreams() {
            let addrs: BTreeSet<_> = upstream.endpoints().iter().map(|endpoint| endpoint.addr).collect();
            prop_assert_eq!(addrs.len(), upstream.endpoints().len());
        }
        facts.workloads.reverse();
        facts.endpoints.reverse();
        let (_, again) = build(&facts);
        prop_assert_eq!(rejections, again);
    }
}
