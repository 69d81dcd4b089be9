//! Pods that leave and agents that stop.

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::{App, full, written_by_hand};
use super::client::{H1, H2, exchange, get, get2};
use super::facts::{CART, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

#[tokio::test]
async fn what_is_under_way_outlives_the_pod_that_leaves() {
    let lab = Lab::start().await;
    let (app, mut bodies) = written_by_hand(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let mut client = H1::dial(&lab, WEB, vip).await;
    let response = client.send(get("/")).await.unwrap();
    let frames = soon("response", bodies.recv()).await.unwrap();

    lab.a.leave(CART);
    lab.a.leave(WEB);
    frames.send(Frame::data(Bytes::from_static(b"end"))).unwrap();
    drop(frames);

    let body = soon("body", response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(body, "begin end");
    eventually("the client's connection closes", || client.0.is_closed()).await;
    eventually("no delivery is kept", || lab.a.flows.true_peers() == 0).await;
}

#[tokio::test]
async fn a_pod_that_leaves_closes_what_was_kept() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    H2::dial(&lab, WEB, vip).await.fetch(get2("/")).await;
    assert_eq!(lab.a.flows.true_peers(), 2, "one of each version is kept");

    lab.a.leave(CART);
    eventually("both close", || lab.a.flows.true_peers() == 0).await;
    assert_eq!(lab.a.flows.forgotten_late(), 0);
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_tells_clients_to_go() {
    let lab = Lab::start().await;
    let (app, mut bodies) = written_by_hand(&lab, PAY).await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let mut one = H1::dial(&lab, WEB, vip).await;
    let mut two = H2::dial(&lab, WEB, vip).await;
    let first = one.send(get("/")).await.unwrap();
    let second = two.send(get2("/")).await.unwrap();

    for agent in [&lab.b, &lab.a] {
        agent.tasks.request_stop();
        agent.mesh.close_pools();
    }
    for response in [first, second] {
        let frames = soon("response", bodies.recv()).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "1".parse().unwrap());
        frames.send(Frame::data(Bytes::from_static(b"end"))).unwrap();
        frames.send(Frame::trailers(trailers)).unwrap();
        let body = soon("body", response.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(body, "begin end");
    }
    eventually("the HTTP/1.1 client is closed", || one.0.is_closed()).await;
    eventually("the HTTP/2 client is closed", || two.0.is_closed()).await;
    for agent in [&lab.a, &lab.b] {
        assert!(soon("join", agent.tasks.joined(std::time::Duration::from_secs(8))).await);
    }
}

#[tokio::test]
async fn a_stop_answers_the_last_request_with_connection_close() {
    let lab = Lab::start().await;
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<()>>();
    let app = App::http(&lab, CART, move |_| {
        let (answer, answered) = tokio::sync::oneshot::channel();
        asked.send(answer).unwrap();
        async move {
            answered.await.unwrap();
            Response::new(full("last"))
        }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let mut idle = lab.dial(WEB, vip).await;
    idle.write_all(REQUEST).await.unwrap();
    let first = soon("first question", questions.recv()).await.unwrap();
    first.send(()).unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"last") {
        let read = soon("first answer", idle.read_buf(&mut heard)).await.unwrap();
        assert!(read > 0, "closed before the stop");
    }

    let mut client = lab.dial(WEB, vip).await;
    client.write_all(REQUEST).await.unwrap();
    let answer = soon("question", questions.recv()).await.unwrap();
    lab.a.tasks.request_stop();
    // Its end goes through more hands than the news that there is a stop.
    assert_eq!(soon("the idle one ends", idle.read(&mut [0])).await.unwrap(), 0);
    answer.send(()).unwrap();

    let all = exchange(&mut client, b"").await.unwrap();
    let text = String::from_utf8(all).unwrap();
    assert!(text.contains("connection: close"), "{text}");
    assert!(text.ends_with("last"), "{text}");
}

#[tokio::test]
async fn a_request_that_crosses_the_stop_on_a_kept_connection_is_answered() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let mut kept = lab.dial(WEB, vip).await;
    kept.write_all(REQUEST).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        let read = soon("first answer", kept.read_buf(&mut heard)).await.unwrap();
        assert!(read > 0, "closed before the stop");
    }

    lab.a.tasks.request_stop();
    let all = exchange(&mut kept, REQUEST).await.unwrap();
    let text = String::from_utf8(all).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
    assert!(text.ends_with("hello"), "{text}");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_clients_that_say_nothing() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let mut silent = lab.dial(WEB, vip).await;
    let captured = [("direction", "outbound")];
    eventually("accepted", || {
        lab.a.sum("mesh_captured_connections_total", &captured) == 1
    })
    .await;

    lab.a.tasks.request_stop();

    assert_eq!(exchange(&mut silent, b"").await.unwrap(), b"");
    assert!(lab.a.tasks.joined(std::time::Duration::from_secs(8)).await);
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
