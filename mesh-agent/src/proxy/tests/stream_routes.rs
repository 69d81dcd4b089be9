//! What routes of connections do: where bytes go, and that they arrive as they were sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{App, speaks};
use super::client::{H1, exchange, get};
use super::facts::{CART, LabPod, PAY, PORT, WEB, destination_rule, name};
use super::lab::{Lab, eventually};
use crate::identity::testing::first_flight_to;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::route::{
    Audience, BackendTarget, Filters, NamePattern, OpeningMatch, RouteBackend, RouteKind, RouteParent,
    StreamMatch, StreamRoute, StreamRule,
};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::{Subset, WrittenPolicy};

/// A server that says its name, then everything that it was sent.
async fn named(lab: &Lab, pod: LabPod, name: &'static str) -> SocketAddr {
    speaks(lab, pod, move |mut stream| async move {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).await.is_ok() {
            stream.write_all(name.as_bytes()).await.unwrap();
            stream.write_all(&all).await.unwrap();
        }
    })
    .await
}

/// What comes back for `bytes`; nothing for a connection that was refused.
async fn answer(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    if stream.write_all(bytes).await.is_err() || stream.shutdown().await.is_err() {
        return Vec::new();
    }
    exchange(stream, b"").await.unwrap_or_default()
}

pub(super) fn anything() -> StreamMatch {
    StreamMatch::default()
}

fn asking(pattern: &str) -> StreamMatch {
    StreamMatch {
        opening: OpeningMatch::Named(NamePattern::read(pattern).unwrap()),
        ..anything()
    }
}

pub(super) fn to(target: BackendTarget, weight: u32) -> RouteBackend {
    RouteBackend {
        field: "spec.rules[0].backendRefs[0]".into(),
        target,
        weight,
        filters: Filters::default(),
    }
}

pub(super) fn service(of: &str) -> BackendTarget {
    BackendTarget::Service(name(of), PORT)
}

pub(super) fn route(
    kind: RouteKind,
    parent: &str,
    rules: Vec<(StreamMatch, Vec<RouteBackend>)>,
) -> StreamRoute {
    let rules = rules.into_iter().map(|(one, backends)| StreamRule {
        matches: vec![one],
        backends,
    });
    StreamRoute {
        kind,
        namespace: "shop".into(),
        name: "route".into(),
        meta: Arc::new(ObjectMeta::default()),
        audience: Audience::ByNamespace,
        parents: vec![RouteParent {
            field: "spec.parentRefs[0]".into(),
            service: name(parent),
            port: None,
            section: None,
        }],
        rules: rules.collect(),
    }
}

#[tokio::test]
async fn a_tcp_route_sends_connections_to_its_backends_by_weight() {
    let lab = Lab::start().await;
    let (near, far) = (named(&lab, CART, "near ").await, named(&lab, PAY, "far ").await);
    let vip = lab.service("cart", AppProtocol::Tcp, &[near]).await;
    lab.service("pay", AppProtocol::Tcp, &[far]).await;
    for (weights, expected) in [([1, 0], "near hi"), ([0, 1], "far hi"), ([0, 0], "")] {
        lab.change(|facts| {
            let backends = vec![to(service("cart"), weights[0]), to(service("pay"), weights[1])];
            facts.stream_routes = vec![route(RouteKind::Tcp, "cart", vec![(anything(), backends)])];
        });
        for _ in 0..4 {
            let mut stream = lab.dial(WEB, vip).await;
            let said = answer(&mut stream, b"hi").await;
            assert_eq!(String::from_utf8(said).unwrap(), expected, "{weights:?}");
        }
    }
    let lines = lab.a.logged(12 + 4).await;
    let routed = lines
        .iter()
        .filter(|line| line["route_name"] == "shop/route")
        .count();
    assert!(routed >= 8, "the route is in the access log: {lines:?}");
}

#[tokio::test]
async fn the_share_of_a_backend_that_cannot_be_is_refused_with_its_flag() {
    let lab = Lab::start().await;
    let app = named(&lab, CART, "cart ").await;
    let vip = lab.service("cart", AppProtocol::Tcp, &[app]).await;
    lab.change(|facts| {
        let backends = vec![to(service("nobody"), 1)];
        facts.stream_routes = vec![route(RouteKind::Tcp, "cart", vec![(anything(), backends)])];
    });
    let mut stream = lab.dial(WEB, vip).await;
    assert_eq!(answer(&mut stream, b"hi").await, b"");
    let log = lab.a.logged(1).await;
    assert_eq!(
        log[0]["connection_termination_details"], "backend_invalid",
        "{log:?}"
    );
}

#[tokio::test]
async fn a_tcp_route_makes_opaque_bytes_of_whatever_a_port_says() {
    let lab = Lab::start().await;
    let app = named(&lab, CART, "cart ").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app]).await;
    lab.change(|facts| {
        let backends = vec![to(service("cart"), 1)];
        facts.stream_routes = vec![route(RouteKind::Tcp, "cart", vec![(anything(), backends)])];
    });
    for bytes in [&b"\x00\x01 no HTTP"[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = lab.dial(WEB, vip).await;
        let said = answer(&mut stream, bytes).await;
        assert_eq!(said, [b"cart ", bytes].concat());
    }
}

#[tokio::test]
async fn a_tls_route_reads_the_name_and_passes_every_byte_on() {
    let lab = Lab::start().await;
    let (near, far) = (named(&lab, CART, "near ").await, named(&lab, PAY, "far ").await);
    let vip = lab.service("cart", AppProtocol::Tcp, &[near]).await;
    lab.service("pay", AppProtocol::Tcp, &[far]).await;
    lab.change(|facts| {
        facts.stream_routes = vec![route(
            RouteKind::Tls,
            "cart",
            vec![
                (asking("*.example"), vec![to(service("pay"), 1)]),
                (asking("near.example"), vec![to(service("cart"), 1)]),
            ],
        )];
    });
    for (asked, expected) in [
        ("near.example", Some("near ")),
        ("NEAR.example", Some("near ")),
        ("other.example", Some("far ")),
        ("elsewhere", None),
        ("192.0.2.1", None),
    ] {
        let flight = first_flight_to(asked);
        let mut stream = lab.dial(WEB, vip).await;
        // In two pieces, of which the first does not hold the name.
        stream.write_all(&flight[..30]).await.unwrap();
        tokio::task::yield_now().await;
        let said = answer(&mut stream, &flight[30..]).await;
        let expected = expected.map(|name| [name.as_bytes(), &flight].concat());
        assert_eq!(said, expected.unwrap_or_default(), "{asked}");
    }
    let mut stream = lab.dial(WEB, vip).await;
    assert_eq!(answer(&mut stream, b"no TLS").await, b"");
    eventually("three refusals", || {
        let log = lab.a.log();
        log.iter().filter(|line| line["response_flags"] == "NR").count() == 3
    })
    .await;
}

#[tokio::test]
async fn the_tcp_part_of_a_virtual_service_leaves_http_alone() {
    let lab = Lab::start().await;
    let web = App::says(&lab, CART, "http").await;
    let bytes = named(&lab, PAY, "bytes ").await;
    let vip = lab.service("cart", AppProtocol::Detect, &[web.addr]).await;
    lab.service("pay", AppProtocol::Tcp, &[bytes]).await;
    lab.change(|facts| {
        let backends = vec![to(service("pay"), 1)];
        facts.stream_routes = vec![StreamRoute {
            audience: Audience::Everybody,
            ..route(RouteKind::Virtual, "cart", vec![(anything(), backends)])
        }];
    });
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.text(), "http");
    let mut stream = lab.dial(WEB, vip).await;
    assert_eq!(answer(&mut stream, b"*1\r\n").await, b"bytes *1\r\n");
}

#[tokio::test]
async fn a_virtual_service_of_names_lets_other_bytes_wait_for_no_name() {
    let lab = Lab::start().await;
    let first = speaks(&lab, CART, |mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
    })
    .await;
    let named = named(&lab, PAY, "named ").await;
    let vip = lab.service("cart", AppProtocol::Tcp, &[first]).await;
    lab.service("pay", AppProtocol::Tcp, &[named]).await;
    lab.change(|facts| {
        let rules = vec![
            (asking("a.example"), vec![to(service("pay"), 1)]),
            (anything(), vec![to(service("cart"), 1)]),
        ];
        facts.stream_routes = vec![route(RouteKind::Virtual, "cart", rules)];
    });
    // Its server speaks first: the client says nothing.
    let mut stream = lab.dial(WEB, vip).await;
    assert_eq!(exchange(&mut stream, b"").await.unwrap(), b"220 ready\r\n");
    let flight = first_flight_to("a.example");
    let mut stream = lab.dial(WEB, vip).await;
    assert_eq!(
        answer(&mut stream, &flight).await,
        [b"named ", &flight[..]].concat()
    );
}

#[tokio::test]
async fn a_subset_is_reached_by_its_labels() {
    let lab = Lab::start().await;
    let (near, far) = (named(&lab, CART, "v1 ").await, named(&lab, PAY, "v2 ").await);
    let vip = lab.service("cart", AppProtocol::Tcp, &[near, far]).await;
    let labels = |version: &str| BTreeMap::from([("version".to_owned(), version.to_owned())]);
    for version in ["v1", "v2", "v3"] {
        lab.change(|facts| {
            for (pod, version) in [(CART, "v1"), (PAY, "v2")] {
                let uid = pod.workload().uid;
                let workload = facts.workloads.iter_mut().find(|one| one.uid == uid).unwrap();
                workload.labels = labels(version).into();
            }
            let subsets = ["v1", "v2", "v3"].map(|name| Subset {
                name: name.into(),
                labels: labels(name),
                policy: WrittenPolicy::default(),
                ports: Vec::new(),
            });
            let mut rule = destination_rule("cart", WrittenPolicy::default());
            rule.subsets = subsets.into();
            facts.destination_rules = vec![rule];
            let target = BackendTarget::Subset(name("cart"), PORT, version.into());
            let rules = vec![(anything(), vec![to(target, 1)])];
            facts.stream_routes = vec![route(RouteKind::Virtual, "cart", rules)];
        });
        for _ in 0..4 {
            let mut stream = lab.dial(WEB, vip).await;
            let said = answer(&mut stream, b"hi").await;
            let expected = if version == "v3" {
                String::new()
            } else {
                format!("{version} hi")
            };
            assert_eq!(String::from_utf8(said).unwrap(), expected);
        }
    }
}
