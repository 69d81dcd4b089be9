//! What the agent answers instead of an application, and how that is recorded.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::app::{App, heard, speaks, streamed};
use super::client::{H1, H2, Reply, call, exchange, get, get2, post};
use super::facts::{CART, LATE, LEGACY, PAY, WEB, node, route, rule, strict};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

/// Flags and details of the one request that the client's agent logged for its own side.
async fn told(lab: &Lab) -> (String, String) {
    eventually("a record of the source", || {
        lab.a.log().iter().any(|line| line["reporter"] == "source")
    })
    .await;
    let log = lab.a.log();
    let line = log.iter().find(|line| line["reporter"] == "source").unwrap();
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("response_flags"), text("response_code_details"))
}

#[tokio::test]
async fn no_matching_route_is_404() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    lab.change(|facts| {
        let rules = vec![rule("/only", &[("cart", 1)], None)];
        facts.http_routes.push(route("cart", rules));
    });

    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(get("/other")).await.status, 404);
    assert_eq!(told(&lab).await, ("NR".into(), "route_not_found".into()));
    assert_eq!(
        client.fetch(get("/only/this")).await.status,
        200,
        "the connection goes on"
    );
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn a_backend_that_does_not_exist_is_500() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    lab.change(|facts| {
        let rules = vec![rule("/", &[("nobody", 1)], None)];
        facts.http_routes.push(route("cart", rules));
    });

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 500);
    assert_eq!(told(&lab).await, ("NC".into(), "backend_invalid".into()));
}

#[tokio::test]
async fn no_endpoint_is_503() {
    let lab = Lab::start().await;
    let vip = lab.service("cart", AppProtocol::Http, &[]).await;

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 503);
    assert_eq!(told(&lab).await, ("UH".into(), "no_healthy_upstream".into()));
}

#[tokio::test]
async fn a_refused_connect_is_503() {
    let lab = Lab::start().await;
    let nobody = TcpListener::bind((CART.ip, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let vip = lab.service("cart", AppProtocol::Http, &[nobody]).await;

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 503);
    assert_eq!(told(&lab).await, ("UF".into(), "upstream_connect_failed".into()));
    assert_eq!(lab.a.load(), 0);
    assert_eq!(lab.a.flows.true_peers(), 0);
}

#[tokio::test]
async fn an_application_that_refuses_on_the_other_node_is_503_once() {
    let lab = Lab::start().await;
    let nobody = TcpListener::bind((PAY.ip, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let vip = lab.service("pay", AppProtocol::Http, &[nobody]).await;

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 503);
    let there = lab.b.logged(1).await;
    assert_eq!(there[0]["response_flags"], "UF");
    assert_eq!(there.len(), 1);
}

#[tokio::test]
async fn a_reset_before_the_response_is_503_and_a_post_is_delivered_once() {
    let lab = Lab::start().await;
    let deliveries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&deliveries);
    let addr = speaks(&lab, CART, move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            if heard(&mut stream).await {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            stream.set_zero_linger().unwrap();
        }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[addr]).await;

    let reply = H1::dial(&lab, WEB, vip).await.fetch(post("/", "order")).await;
    assert_eq!(reply.status, 503);
    let expected = ("UC".into(), "upstream_reset_before_response_started".into());
    assert_eq!(told(&lab).await, expected);
    assert_eq!(deliveries.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_silent_application_is_504_after_the_routes_timeout() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::http(&lab, pod, |_| std::future::pending()).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        lab.change(|facts| {
            let rules = vec![rule("/", &[(name, 1)], Some(SHORT))];
            facts.http_routes.push(route(name, rules));
        });

        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!(reply.status, 504, "{name}");
        assert_eq!(told(&lab).await, ("UT".into(), "response_timeout".into()));
        eventually("load is given back", || lab.a.load() == 0).await;
        lab.change(|facts| facts.http_routes.clear());
    }
}

#[tokio::test]
async fn a_response_that_stalls_is_cut_at_the_routes_timeout() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |_| async {
        let (frames, body) = streamed();
        frames.send(Frame::data(Bytes::from_static(b"begin"))).unwrap();
        // Never dropped: the body never ends.
        std::mem::forget(frames);
        Response::new(body)
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    lab.change(|facts| {
        let rules = vec![rule("/", &[("cart", 1)], Some(SHORT))];
        facts.http_routes.push(route("cart", rules));
    });

    let response = H1::dial(&lab, WEB, vip).await.send(get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(
        soon("body", response.into_body().collect()).await.is_err(),
        "cut, not ended"
    );
    assert_eq!(told(&lab).await, ("UT".into(), "response_timeout".into()));
    eventually("load is given back", || lab.a.load() == 0).await;
}

#[tokio::test]
async fn a_grpc_client_gets_a_grpc_status_instead() {
    let lab = Lab::start().await;
    let vip = lab.service("cart", AppProtocol::Grpc, &[]).await;
    let silent = App::http(&lab, CART, |_| std::future::pending()).await;
    let slow = lab.service("slow", AppProtocol::Grpc, &[silent.addr]).await;
    lab.change(|facts| {
        let rules = vec![rule("/", &[("slow", 1)], Some(SHORT))];
        facts.http_routes.push(route("slow", rules));
    });

    for (original, status) in [(vip, "14"), (slow, "4")] {
        let reply = H2::dial(&lab, WEB, original).await.fetch(call(b"")).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["grpc-status"]),
            (200, &status.parse().unwrap())
        );
        assert!(reply.headers.contains_key("grpc-message"));
    }
}

#[tokio::test]
async fn weights_share_requests_out() {
    let lab = Lab::start().await;
    let (one, two) = (
        App::says(&lab, CART, "one").await,
        App::says(&lab, CART, "two").await,
    );
    lab.service("one", AppProtocol::Http, &[one.addr]).await;
    lab.service("two", AppProtocol::Http, &[two.addr]).await;
    let vip = lab.service("cart", AppProtocol::Http, &[]).await;
    lab.change(|facts| {
        let rules = vec![rule("/", &[("one", 9), ("two", 1)], None)];
        facts.http_routes.push(route("cart", rules));
    });

    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..400 {
        assert_eq!(client.fetch(get("/")).await.status, 200);
    }
    // 40 expected, standard deviation 6: out of bounds once in a million runs.
    let rare = two.seen().len();
    assert!((10..=70).contains(&rare), "{rare} of 400");
    assert_eq!(one.seen().len() + rare, 400);
}

#[tokio::test]
async fn strict_resets_plaintext_and_permissive_carries_it() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let gate = lab.steer(app.addr, LEGACY.ip).await;

    let stream = tokio::net::TcpStream::connect(gate).await.unwrap();
    let reply = H1::on(&lab, stream).await.fetch(get("/")).await;
    assert_eq!(reply.text(), "hello", "the default is PERMISSIVE");

    lab.change(|facts| facts.peer_authentications.push(strict()));
    let mut stream = tokio::net::TcpStream::connect(gate).await.unwrap();
    let error = exchange(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(app.seen().len(), 1);
    let denials = lab
        .a
        .sum("mesh_policy_denials_total", &[("reason", "plaintext_refused")]);
    assert_eq!(denials, 1);
}

#[tokio::test]
async fn strict_lets_the_own_nodes_probe_in_and_nothing_else_of_it() {
    let lab = Lab::start().await;
    let kubelet: IpAddr = "127.0.1.99".parse().unwrap();
    let probed = App::says(&lab, CART, "alive").await;
    let other = App::says(&lab, CART, "secret").await;
    lab.change(|facts| {
        facts.peer_authentications.push(strict());
        facts.nodes.push(node("node-a", kubelet));
        let cart = facts.workloads.iter_mut().find(|pod| pod.addrs == [CART.ip]);
        cart.unwrap().probe_ports.insert(probed.addr.port());
    });

    let gate = lab.steer(probed.addr, kubelet).await;
    let stream = tokio::net::TcpStream::connect(gate).await.unwrap();
    let reply = H1::on(&lab, stream).await.fetch(get("/")).await;
    assert_eq!(reply.text(), "alive");
    let line = &lab.a.logged(1).await[0];
    assert!(line["source_workload"].is_null(), "{line}");
    assert_eq!(line["path_taken"], "plain");

    for (app, client) in [(&other, kubelet), (&probed, LEGACY.ip)] {
        let gate = lab.steer(app.addr, client).await;
        let mut stream = tokio::net::TcpStream::connect(gate).await.unwrap();
        let error = exchange(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn strict_accepts_the_mesh_on_both_paths() {
    let lab = Lab::start().await;
    lab.change(|facts| facts.peer_authentications.push(strict()));
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!(reply.text(), "hello", "{name}");
    }
}

#[tokio::test]
async fn a_plaintext_clients_original_version_is_not_believed() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let gate = lab.steer(app.addr, LEGACY.ip).await;

    let mut request = get2("/");
    let forged = http::HeaderValue::from_static("1");
    request.headers_mut().insert("x-mesh-agent-http-version", forged);
    let stream = tokio::net::TcpStream::connect(gate).await.unwrap();
    H2::on(&lab, stream).await.fetch(request).await;

    let seen = app.only_seen();
    assert_eq!(seen.head.version, http::Version::HTTP_2);
    assert_eq!(seen.header("x-mesh-agent-http-version"), None);
}

#[tokio::test]
async fn a_local_pod_that_has_not_joined_gets_nothing() {
    let lab = Lab::start().await;
    let app = App::says(&lab, LATE, "too early").await;
    let vip = lab.service("late", AppProtocol::Http, &[app.addr]).await;

    for original in [vip, app.addr] {
        let reply = H1::dial(&lab, WEB, original).await.fetch(get("/")).await;
        assert_eq!(reply.status, 503);
    }
    assert_eq!(app.seen().len(), 0);
    assert_eq!(told(&lab).await, ("UH".into(), "destination_not_enrolled".into()));
}

#[tokio::test]
async fn connect_is_403_and_reaches_nobody() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;

    let mut stream = lab.dial(WEB, vip).await;
    stream
        .write_all(b"CONNECT inside:22 HTTP/1.1\r\nHost: inside:22\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = exchange(&mut stream, b"").await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 403 "), "{}", answer.escape_ascii());

    let mut request = Request::new(super::app::full(""));
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "inside:22".parse().unwrap();
    let response = H2::dial(&lab, WEB, vip).await.send(request).await.unwrap();
    assert_eq!(Reply::of(response).await.status, StatusCode::FORBIDDEN);
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn a_pod_without_a_certificate_speaks_with_no_other_node() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    lab.a.mesh.certificates.want([]);

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 503);
    assert_eq!(told(&lab).await, ("UF".into(), "no_certificate".into()));
    assert_eq!(app.seen().len(), 0);
}

const SHORT: Duration = Duration::from_millis(60);
