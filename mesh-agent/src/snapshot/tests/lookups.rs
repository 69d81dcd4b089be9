//! What stands behind an address, which endpoints may be used, and which routes apply.

use http::StatusCode;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::mesh::policy::external::{Authorizer, AuthorizerTarget, CheckProtocol, GrpcCheck, OnError};
use crate::mesh::route::Gate;

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
        let found = match snapshot.destination(&client(), addr.parse().unwrap()) {
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
        workloads: vec![placed("b", "10.0.0.2").into(), placed("a", "10.0.0.1").into()],
        ..Facts::default()
    };
    facts.workloads.push(
        Workload {
            node: "node-b".into(),
            ..placed("elsewhere", "10.0.0.3")
        }
        .into(),
    );
    facts.workloads.push(
        Workload {
            membership: Membership::Outside,
            ..placed("outside", "10.0.0.4")
        }
        .into(),
    );
    facts.workloads.push(
        Workload {
            addrs: Vec::new(),
            ..placed("starting", "10.0.0.5")
        }
        .into(),
    );
    facts.workloads.push(pod_at("unplaced", &["10.0.0.6"]).into());
    let (snapshot, _) = build(&facts);
    let names: Vec<_> = snapshot
        .local()
        .iter()
        .map(|workload| workload.pod_name.as_ref())
        .collect();
    assert_eq!(names, ["a", "b", "starting", "unplaced"]);
    assert_eq!(snapshot.workloads().len(), 6);
}

#[test]
fn pods_of_the_host_network_own_no_address() {
    let host = Workload {
        host_network: true,
        ..pod_at("host", &["10.0.0.1"])
    };
    let facts = Facts {
        workloads: vec![host.into(), pod_at("z", &["10.0.0.1"]).into()],
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
        let services = vec![service("web", &["10.96.0.1"], AppProtocol::Http).into()];
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
        let upstream = snapshot
            .upstream(&client(), &ServiceName::new("shop", "web"), 80)
            .unwrap();
        let picked = upstream
            .pick(&request_to(dialled.parse().unwrap()), &mut rng)
            .unwrap();
        assert_eq!(picked.endpoint.addr.to_string(), expected, "{dialled}");
    }
}

#[test]
fn services_that_disagree_leave_a_pods_port_to_detection() {
    let mut facts = web();
    facts
        .services
        .push(service("admin", &[], AppProtocol::Tcp).into());
    facts.endpoints.push(endpoint("admin", "10.0.0.1:8080", Ready));
    let (snapshot, _) = build(&facts);
    let at = |addr: &str| {
        let workload = snapshot.workload_at(addr.parse().unwrap()).unwrap();
        let InboundPort {
            protocol, service, ..
        } = snapshot.inbound(workload, 8080);
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
        .push(service("v2", &["10.96.0.2"], AppProtocol::Http).into());
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
fn a_gate_at_a_service_that_is_not_there_is_named() {
    let mut gated = route("shop", "r", parent("web"), ("web", 80));
    for (service, port, field) in [("opa", 80, "opa.name"), ("web", 81, "opa.port")] {
        gated.rules[0].filters.gate = Some(Gate {
            field: "opa".into(),
            authorizer: Arc::new(Authorizer {
                target: AuthorizerTarget::Service(ServiceName::new("shop", service)),
                port,
                timeout: Duration::from_secs(1),
                on_error: OnError::Refuse(StatusCode::SERVICE_UNAVAILABLE),
                body: None,
                protocol: CheckProtocol::Grpc(GrpcCheck::default()),
            }),
        });
        let (_, rejections) = build(&Facts {
            http_routes: vec![gated.clone()],
            ..web()
        });
        assert_eq!(fields(&rejections), [("HTTPRoute shop/r", field)]);
        assert!(
            rejections[0]
                .reason
                .ends_with("requests that it must let in are refused")
        );
    }
}
