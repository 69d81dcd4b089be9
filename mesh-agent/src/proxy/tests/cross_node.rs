//! Two pods of two nodes: two agents, and mTLS between them.

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};

use super::app::{App, full, grpc};
use super::client::{H1, H2, HOST, call, get, get2, post};
use super::facts::{BANK, PAY, WEB};
use super::lab::Lab;
use crate::mesh::service::AppProtocol;

#[tokio::test]
async fn http_1_travels_as_http_2_and_is_restored() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/a?b=c")).await;

    assert_eq!((reply.status.as_u16(), reply.text()), (200, "paid"));
    let seen = app.only_seen();
    assert_eq!(seen.head.version, Version::HTTP_11);
    assert_eq!(seen.head.uri, "/a?b=c");
    assert_eq!(seen.header("host"), Some(HOST));
    assert_eq!(seen.header(ORIGINAL_VERSION), None);
}

#[tokio::test]
async fn http_2_stays_http_2() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;

    let reply = H2::dial(&lab, WEB, vip).await.fetch(get2("/a?b=c")).await;

    assert_eq!((reply.status.as_u16(), reply.text()), (200, "paid"));
    let seen = app.only_seen();
    assert_eq!(seen.head.version, Version::HTTP_2);
    assert_eq!(seen.head.uri.authority().unwrap(), HOST);
}

#[tokio::test]
async fn grpc_trailers_reach_the_client_and_both_records() {
    let lab = Lab::start().await;
    let app = App::http(&lab, PAY, |_| async { grpc(b"\0\0\0\0\x01x", 5) }).await;
    let vip = lab.service("pay", AppProtocol::Grpc, &[app.addr]).await;

    let reply = H2::dial(&lab, WEB, vip).await.fetch(call(b"\0\0\0\0\x01x")).await;

    assert_eq!(reply.trailers.unwrap()["grpc-status"], "5");
    for agent in [&lab.a, &lab.b] {
        let log = agent.logged(1).await;
        assert_eq!(log[0]["grpc_status"], 5, "{log:?}");
        assert_eq!(log[0]["response_flags"], "-", "{log:?}");
    }
}

#[tokio::test]
async fn a_grpc_status_without_a_message_reaches_the_client_and_the_record() {
    let lab = Lab::start().await;
    let app = App::http(&lab, PAY, |_| async {
        let mut response = Response::new(full(""));
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static("7"));
        response
    })
    .await;
    let vip = lab.service("pay", AppProtocol::Grpc, &[app.addr]).await;

    let reply = H2::dial(&lab, WEB, vip).await.fetch(call(b"")).await;

    assert_eq!(reply.headers["grpc-status"], "7");
    assert_eq!(lab.a.logged(1).await[0]["grpc_status"], 7);
}

#[tokio::test]
async fn the_application_sees_the_true_client() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;

    H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;

    let shown = lab.b.flows.true_peer(PAY.cookie, app.only_seen().peer);
    assert_eq!(shown.unwrap().ip(), WEB.ip);
}

#[tokio::test]
async fn connections_between_agents_are_used_again() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;

    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..10 {
        assert_eq!(client.fetch(get("/")).await.text(), "paid");
    }

    let captured = [("direction", "inbound")];
    assert_eq!(
        lab.b.sum("mesh_captured_connections_total", &captured),
        1,
        "one connection carries ten requests"
    );
    let peers: std::collections::BTreeSet<_> = app.seen().iter().map(|seen| seen.peer).collect();
    assert_eq!(peers.len(), 1, "and so does the one to the application");
}

#[tokio::test]
async fn hop_by_hop_fields_do_not_travel_either_way() {
    let lab = Lab::start().await;
    let app = App::http(&lab, PAY, |_| async {
        Response::builder()
            .header(CONNECTION, "x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("x-end", "1")
            .body(full("ok"))
            .unwrap()
    })
    .await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;

    let request = Request::get("/")
        .header("host", HOST)
        .header(CONNECTION, "x-hop, keep-alive")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=5")
        .header("x-end", "1")
        .body(full(""))
        .unwrap();
    let reply = H1::dial(&lab, WEB, vip).await.fetch(request).await;

    let seen = app.only_seen();
    for headers in [&reply.headers, &seen.head.headers] {
        let found = ["connection", "keep-alive", "x-hop", "x-end"].map(|name| headers.contains_key(name));
        assert_eq!(found, [false, false, false, true], "{headers:?}");
    }
}

#[tokio::test]
async fn the_original_version_of_an_application_is_neither_believed_nor_passed_on() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;

    let mut request = get2("/");
    let forged = HeaderValue::from_static("1");
    request.headers_mut().insert(ORIGINAL_VERSION, forged);
    H2::dial(&lab, WEB, vip).await.fetch(request).await;

    let seen = app.only_seen();
    assert_eq!(seen.head.version, Version::HTTP_2);
    assert_eq!(seen.header(ORIGINAL_VERSION), None);
}

#[tokio::test]
async fn a_large_body_arrives_whole_both_ways() {
    let lab = Lab::start().await;
    let app = App::http(&lab, PAY, |request| async {
        Response::new(full(read(request).await))
    })
    .await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();

    let reply = H1::dial(&lab, WEB, vip)
        .await
        .fetch(post("/", sent.clone()))
        .await;

    assert!(reply.body == sent, "{} bytes came back", reply.body.len());
    let log = lab.a.logged(1).await;
    assert_eq!(
        (log[0]["bytes_received"].as_u64(), log[0]["bytes_sent"].as_u64()),
        (Some(3_000_000), Some(3_000_000))
    );
}

#[tokio::test]
async fn a_peer_with_another_identity_gets_no_byte_of_the_request() {
    let lab = Lab::start().await;
    let impostor = App::says(&lab, BANK, "stolen").await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let behind = lab.steer(impostor.addr, WEB.ip).await;
    lab.a.change(|facts| {
        // Discovery says that this address is pay's; bank's agent answers there.
        facts.endpoints[0].addr = behind;
        facts.endpoints[0].workload = None;
        for workload in &mut facts.workloads {
            if workload.addrs == [BANK.ip] {
                workload.identity = PAY.identity();
            }
        }
    });

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;

    assert_eq!(reply.status.as_u16(), 503);
    assert_eq!(impostor.seen().len(), 0);
    let log = lab.a.logged(1).await;
    assert_eq!(
        (&log[0]["response_flags"], &log[0]["response_code_details"]),
        (&"UF".into(), &"upstream_tls_failed".into())
    );
    let failures = lab.a.sum(
        "mesh_handshake_failures_total",
        &[("side", "client"), ("reason", "identity")],
    );
    assert_eq!(failures, 1);
}

async fn read(request: Request<hyper::body::Incoming>) -> bytes::Bytes {
    use http_body_util::BodyExt;
    request.into_body().collect().await.unwrap().to_bytes()
}

const ORIGINAL_VERSION: &str = "x-mesh-agent-http-version";
