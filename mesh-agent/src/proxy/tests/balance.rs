//! What a traffic policy does to requests and connections: who is ejected, what is refused, where a hash leads.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use tokio::net::TcpListener;

use super::app::{App, full, grpc, speaks, written_by_hand};
use super::client::{H1, H2, HOST, call, get};
use super::facts::{CART, LEGACY, WEB, destination_rule};
use super::lab::{Lab, eventually};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::{
    BalancerKind, ConsistentHash, HashCookie, HashKey, HashTable, Limits, LocalityPolicy, OutlierDetection,
    WrittenBalancer, WrittenPolicy,
};

/// Round robin over all, one failure ejects.
fn quick() -> WrittenPolicy {
    WrittenPolicy {
        load_balancer: Some(WrittenBalancer {
            kind: Some(BalancerKind::RoundRobin),
            locality: Some(LocalityPolicy::Off),
            warmup: None,
        }),
        outliers: Some(OutlierDetection {
            consecutive_5xx: 1,
            ..OutlierDetection::default()
        }),
        ..WrittenPolicy::default()
    }
}

fn only(limits: Limits) -> WrittenPolicy {
    WrittenPolicy {
        limits: Some(limits),
        ..WrittenPolicy::default()
    }
}

/// The ports of the ejected endpoints.
fn ejected(lab: &Lab) -> Vec<u16> {
    let ejected = lab.a.mesh.snapshots.load().ejected();
    ejected.into_iter().map(|one| one.endpoint.port()).collect()
}

async fn failing(lab: &Lab, status: StatusCode) -> App {
    App::http(lab, CART, move |_| async move {
        let mut response = Response::new(full("no"));
        *response.status_mut() = status;
        response
    })
    .await
}

#[tokio::test]
async fn an_endpoint_that_answers_500_is_not_asked_again() {
    let lab = Lab::start().await;
    let (good, bad) = (
        App::says(&lab, CART, "good").await,
        failing(&lab, StatusCode::INTERNAL_SERVER_ERROR).await,
    );
    let vip = lab
        .service("cart", AppProtocol::Http, &[good.addr, bad.addr])
        .await;
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", quick())]);

    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..20 {
        client.fetch(get("/")).await;
    }
    assert_eq!(bad.seen().len(), 1);
    assert_eq!(good.seen().len(), 19);
    assert_eq!(ejected(&lab), [bad.addr.port()]);
}

#[tokio::test]
async fn a_client_that_is_wrong_ejects_nobody() {
    let lab = Lab::start().await;
    let apps = [
        failing(&lab, StatusCode::NOT_FOUND).await,
        failing(&lab, StatusCode::TOO_MANY_REQUESTS).await,
    ];
    let addrs: Vec<_> = apps.iter().map(|app| app.addr).collect();
    let vip = lab.service("cart", AppProtocol::Http, &addrs).await;
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", quick())]);

    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..10 {
        client.fetch(get("/")).await;
    }
    assert_eq!(apps.map(|app| app.seen().len()), [5, 5]);
}

#[tokio::test]
async fn a_grpc_status_in_the_trailers_ejects() {
    let lab = Lab::start().await;
    let good = App::http(&lab, CART, |_| async { grpc(b"\0\0\0\0\x01x", 0) }).await;
    let bad = App::http(&lab, CART, |_| async { grpc(b"\0\0\0\0\x01x", 14) }).await;
    let vip = lab
        .service("cart", AppProtocol::Grpc, &[good.addr, bad.addr])
        .await;
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", quick())]);

    let mut client = H2::dial(&lab, WEB, vip).await;
    for _ in 0..10 {
        client.fetch(call(b"\0\0\0\0\x01x")).await;
    }
    assert_eq!((good.seen().len(), bad.seen().len()), (9, 1));
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_ejected_from_requests_and_from_connections() {
    for protocol in [AppProtocol::Http, AppProtocol::Tcp] {
        let lab = Lab::start().await;
        let gone = TcpListener::bind((CART.ip, 0)).await.unwrap();
        let gone_addr = gone.local_addr().unwrap();
        drop(gone);
        let app = App::says(&lab, CART, "good").await;
        let vip = lab.service("cart", protocol, &[app.addr, gone_addr]).await;
        lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", quick())]);
        for _ in 0..2 {
            let mut client = H1::dial(&lab, WEB, vip).await;
            let _either = client.send(get("/")).await;
        }
        assert_eq!(ejected(&lab), [gone_addr.port()], "{protocol:?}");
        for _ in 0..4 {
            assert_eq!(
                H1::dial(&lab, WEB, vip).await.fetch(get("/")).await.text(),
                "good"
            );
        }
    }
}

#[tokio::test]
async fn a_request_more_than_allowed_is_503_with_the_flag_of_overload() {
    let lab = Lab::start().await;
    let (app, mut bodies) = written_by_hand(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let one = Limits {
        requests: Some(1),
        ..Limits::default()
    };
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", only(one))]);

    let mut first = H1::dial(&lab, WEB, vip).await;
    let held = first.send(get("/")).await.unwrap();
    let body = bodies.recv().await.unwrap();
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.headers["x-envoy-overloaded"], "true");
    let log = lab.a.logged(1).await;
    assert_eq!(log[0]["response_flags"], "UO", "{log:?}");
    assert_eq!(log[0]["response_code_details"], "overflow");
    // What ends makes room.
    drop(body);
    drop(held);
    eventually("room", || lab.a.load() == 0).await;
    let mut second = H1::dial(&lab, WEB, vip).await;
    assert_eq!(second.send(get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn connections_are_limited_whatever_they_carry() {
    let limits = |connections, pending| Limits {
        connections,
        pending,
        ..Limits::default()
    };
    for (limits, allowed) in [
        (limits(Some(1), None), true),
        (limits(Some(0), None), false),
        (limits(None, Some(0)), false),
        (limits(None, Some(1)), true),
    ] {
        let lab = Lab::start().await;
        let app = App::says(&lab, CART, "hello").await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", only(limits))]);
        // Requests one after another share a connection.
        for _ in 0..3 {
            let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
            assert_eq!(reply.status, if allowed { 200 } else { 503 }, "{limits:?}");
        }
    }
}

#[tokio::test]
async fn an_opaque_connection_more_than_allowed_is_reset() {
    let lab = Lab::start().await;
    let app = speaks(&lab, LEGACY, |mut stream| async move {
        let (mut read, mut write) = stream.split();
        // An error is a client that went away.
        let _echoed = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let vip = lab.service("legacy", AppProtocol::Tcp, &[app]).await;
    let one = Limits {
        connections: Some(1),
        ..Limits::default()
    };
    lab.change(|facts| facts.destination_rules = vec![destination_rule("legacy", only(one))]);

    let first = lab.dial(WEB, vip).await;
    eventually("the first is under way", || lab.a.load() == 1).await;
    let second = lab.dial(WEB, vip).await;
    let closed = second
        .readable()
        .await
        .and_then(|()| second.try_read(&mut [0; 1]).map(drop));
    assert_eq!(closed.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let log = lab.a.logged(1).await;
    assert_eq!(log[0]["response_flags"], "UO", "{log:?}");
    drop(first);
}

pub(super) fn hashing(key: HashKey) -> WrittenPolicy {
    WrittenPolicy {
        load_balancer: Some(WrittenBalancer {
            kind: Some(BalancerKind::ConsistentHash(ConsistentHash {
                key,
                table: HashTable::Ring(1024),
                balance_factor: None,
            })),
            ..WrittenBalancer::default()
        }),
        ..WrittenPolicy::default()
    }
}

async fn five(lab: &Lab) -> Vec<App> {
    let names = ["one", "two", "three", "four", "five"];
    let mut apps = Vec::new();
    for name in names {
        apps.push(App::says(lab, CART, name).await);
    }
    apps
}

#[tokio::test]
async fn equal_headers_meet_at_one_endpoint_and_different_ones_at_several() {
    let lab = Lab::start().await;
    let apps = five(&lab).await;
    let addrs: Vec<_> = apps.iter().map(|app| app.addr).collect();
    let vip = lab.service("cart", AppProtocol::Http, &addrs).await;
    let key = HashKey::Header("x-user".into());
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", hashing(key.clone()))]);

    let mut client = H1::dial(&lab, WEB, vip).await;
    for user in 0..20 {
        let ask = || {
            let mut request = get("/");
            request.headers_mut().insert("x-user", user.into());
            request
        };
        let first = client.fetch(ask()).await;
        assert_eq!(client.fetch(ask()).await.text(), first.text(), "{user}");
    }
    let asked = apps.iter().filter(|app| !app.seen().is_empty()).count();
    assert!(asked > 1, "all users are at one endpoint");
}

#[tokio::test]
async fn a_cookie_that_was_set_leads_back() {
    let lab = Lab::start().await;
    let apps = five(&lab).await;
    let addrs: Vec<_> = apps.iter().map(|app| app.addr).collect();
    let vip = lab.service("cart", AppProtocol::Http, &addrs).await;
    let key = HashKey::Cookie(HashCookie {
        name: "home".into(),
        path: None,
        ttl: Some(std::time::Duration::ZERO),
        attributes: Vec::new(),
    });
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", hashing(key.clone()))]);

    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..5 {
        let first = client.fetch(get("/")).await;
        let set = first.headers["set-cookie"].to_str().unwrap();
        let pair = set.strip_suffix("; HttpOnly").unwrap().to_owned();
        let again = || {
            let request = Request::get("/").header("host", HOST).header("cookie", &pair);
            request.body(full("")).unwrap()
        };
        let second = client.fetch(again()).await;
        assert_eq!(second.text(), first.text());
        assert!(!second.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn a_snapshot_that_changes_nothing_keeps_who_is_ejected() {
    let lab = Lab::start().await;
    let (good, bad) = (
        App::says(&lab, CART, "good").await,
        failing(&lab, StatusCode::BAD_GATEWAY).await,
    );
    let vip = lab
        .service("cart", AppProtocol::Http, &[good.addr, bad.addr])
        .await;
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", quick())]);
    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..2 {
        client.fetch(get("/")).await;
    }
    let before = Arc::clone(&lab.a.mesh.snapshots.load());
    lab.change(|_| {});
    assert_ne!(lab.a.mesh.snapshots.load().version(), before.version());
    assert_eq!(ejected(&lab), [bad.addr.port()]);
}
