//! Routes of connections beside one another and beside those of requests: which count, for whom.

use super::*;
use crate::mesh::route::{Opening, StreamMatch, StreamRoute, StreamRule};
use crate::route::{StreamDecision, StreamFacts};

/// A route of `namespace` for Service `web` that sends everything to `backend`.
fn stream(kind: RouteKind, namespace: &str, name: &str, backend: &str) -> StreamRoute {
    let HttpRoute {
        namespace,
        name,
        audience,
        parents,
        rules,
        ..
    } = route(namespace, name, parent("web"), (backend, 80));
    StreamRoute {
        meta: meta(&format!("{} {namespace}/{name}", kind.as_str()), 0),
        kind,
        namespace,
        name,
        audience: if kind == RouteKind::Virtual {
            Audience::Everybody
        } else {
            audience
        },
        parents,
        rules: vec![StreamRule {
            matches: vec![StreamMatch::default()],
            backends: rules[0].backends().to_vec(),
        }],
    }
}

fn facts(stream_routes: Vec<StreamRoute>, http_routes: Vec<HttpRoute>) -> Facts {
    let mut facts = Facts {
        http_routes,
        stream_routes,
        ..web()
    };
    for (name, vip) in [("v1", "10.96.0.2"), ("v2", "10.96.0.3")] {
        facts
            .services
            .push(service(name, &[vip], AppProtocol::Tcp).into());
    }
    facts
}

/// Where opaque bytes of a client go.
fn sent(snapshot: &Snapshot, client_namespace: &str) -> Option<String> {
    let upstream = snapshot
        .upstream(&client(), &ServiceName::new("shop", "web"), 80)
        .unwrap();
    let facts = StreamFacts {
        addr: "10.96.0.1".parse().unwrap(),
        dialled: Dialled {
            port: 80,
            namespace: client_namespace,
            ..Dialled::default()
        },
        opening: &Opening::Other,
    };
    match snapshot.stream_routes(client_namespace, upstream)?.decide(&facts) {
        StreamDecision::Rule(rule) => Some(rule.choose(&mut rand::rng()).map_or_else(
            || "invalid".to_owned(),
            |backend| backend.service.name.to_string(),
        )),
        other @ (StreamDecision::Unconcerned | StreamDecision::NoRoute) => Some(format!("{other:?}")),
    }
}

#[test]
fn of_several_kinds_on_one_port_the_greatest_counts() {
    let kinds = [RouteKind::Virtual, RouteKind::Tcp, RouteKind::Tls];
    for (index, winner) in kinds.into_iter().enumerate() {
        let routes = kinds[..=index].iter().map(|kind| {
            let backend = if *kind == winner { "v1" } else { "v2" };
            stream(*kind, "shop", "r", backend)
        });
        let (snapshot, rejections) = build(&facts(routes.collect(), Vec::new()));
        assert_eq!(sent(&snapshot, "shop").as_deref(), Some("v1"), "{winner:?}");
        assert_eq!(rejections.len(), index, "{rejections:?}");
    }
    let of_requests = route("shop", "r", parent("web"), ("v1", 80));
    let (snapshot, rejections) = build(&facts(
        vec![stream(RouteKind::Tcp, "shop", "r", "v2")],
        vec![of_requests],
    ));
    assert_eq!(fields(&rejections), [("TCPRoute shop/r", "spec.parentRefs[0]")]);
    assert_eq!(sent(&snapshot, "shop"), None);
    assert_eq!(routed(&snapshot, "shop").as_deref(), Some("v1:80"));
}

#[test]
fn both_parts_of_a_virtual_service_count_and_of_several_the_elder_of_each() {
    let of_requests = |name: &str, age: u64, backend: &str| HttpRoute {
        kind: RouteKind::Virtual,
        meta: meta(&format!("VirtualService shop/{name}"), age),
        audience: Audience::Everybody,
        ..route("shop", name, parent("web"), (backend, 80))
    };
    let of_bytes = |name: &str, age: u64, backend: &str| StreamRoute {
        meta: meta(&format!("VirtualService shop/{name}"), age),
        ..stream(RouteKind::Virtual, "shop", name, backend)
    };
    let (snapshot, rejections) = build(&facts(
        vec![of_bytes("a", 9, "v2"), of_bytes("b", 1, "v1")],
        vec![of_requests("a", 9, "v2")],
    ));
    assert_eq!(fields(&rejections), [("VirtualService shop/a", "spec.hosts")]);
    assert_eq!(sent(&snapshot, "shop").as_deref(), Some("v1"));
    assert_eq!(routed(&snapshot, "shop").as_deref(), Some("v2:80"));
}

#[test]
fn of_several_tcp_routes_the_eldest_counts_and_a_consumers_own_goes_before_it() {
    let aged = |namespace: &str, name: &str, age: u64, backend: &str| StreamRoute {
        meta: meta(&format!("TCPRoute {namespace}/{name}"), age),
        ..stream(RouteKind::Tcp, namespace, name, backend)
    };
    let (snapshot, rejections) = build(&facts(
        vec![
            aged("shop", "young", 9, "v1"),
            aged("shop", "old", 1, "v2"),
            aged("far", "own", 5, "v1"),
        ],
        Vec::new(),
    ));
    assert_eq!(
        fields(&rejections),
        [("TCPRoute shop/young", "spec.parentRefs[0]")]
    );
    assert_eq!(sent(&snapshot, "shop").as_deref(), Some("v2"));
    assert_eq!(sent(&snapshot, "far").as_deref(), Some("v1"));
}

#[test]
fn a_backend_that_is_not_known_keeps_its_share_of_connections() {
    let (snapshot, rejections) = build(&facts(
        vec![stream(RouteKind::Tcp, "shop", "r", "nobody")],
        Vec::new(),
    ));
    assert_eq!(
        fields(&rejections),
        [("TCPRoute shop/r", "spec.rules[0].backendRefs[0].name")]
    );
    assert!(
        rejections[0]
            .reason
            .contains("its share of connections is refused")
    );
    assert_eq!(sent(&snapshot, "shop").as_deref(), Some("invalid"));
}

#[test]
fn a_port_and_a_section_that_a_parent_names_are_its_only_ones() {
    let mut of_port = stream(RouteKind::Tcp, "shop", "r", "v1");
    for (port, section, expected) in [
        (Some(80), None, Some("v1")),
        (None, Some("main"), Some("v1")),
        (Some(81), None, None),
        (None, Some("other"), None),
    ] {
        of_port.parents[0].port = port;
        of_port.parents[0].section = section.map(Into::into);
        let (snapshot, rejections) = build(&facts(vec![of_port.clone()], Vec::new()));
        assert_eq!(
            sent(&snapshot, "shop").as_deref(),
            expected,
            "{port:?} {section:?}"
        );
        assert_eq!(rejections.is_empty(), expected.is_some());
    }
}

#[test]
fn a_route_of_connections_takes_the_service_off_the_fast_path() {
    let mut facts = Facts {
        workloads: vec![
            placed("client", "10.0.0.1").into(),
            placed("web", "10.0.0.2").into(),
        ],
        services: vec![
            Service {
                traffic: ServiceTraffic::default(),
                ..service("web", &["10.96.0.1"], AppProtocol::Tcp)
            }
            .into(),
        ],
        endpoints: vec![endpoint("web", "10.0.0.2:7000", Ready)],
        ..Facts::default()
    };
    let limits = DirectLimits {
        verdicts: 100,
        endpoints: 8,
    };
    let vip: SocketAddr = "10.96.0.1:80".parse().unwrap();
    for is_routed in [false, true] {
        if is_routed {
            facts.stream_routes = vec![stream(RouteKind::Tcp, "shop", "r", "web")];
        }
        let (snapshot, rejections) = build(&facts);
        assert_eq!(rejections, []);
        let found = snapshot.direct_verdicts(|_| true, limits).verdicts;
        assert_eq!(found.iter().any(|one| one.dialled == vip), !is_routed);
        let client = snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap();
        let passage = snapshot.is_opaque_to(client, vip);
        let expected = if is_routed {
            Passage::Forbidden("routed")
        } else {
            Passage::Direct
        };
        assert_eq!(passage, expected);
    }
}
