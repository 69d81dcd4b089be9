//! Requests that recipients have read in two ways: refused, and their connection with them, or sent on in one way.

use std::net::SocketAddr;

use futures_util::future::join_all;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{App, full, heard, speaks};
use super::facts::{CART, LEGACY, PAY, WEB};
use super::lab::{Lab, soon};
use crate::mesh::service::AppProtocol;

/// Sends raw bytes, after which the agent must close by itself, and returns all answers.
async fn answers(lab: &Lab, vip: SocketAddr, request: &str) -> String {
    answers_on(lab.dial(WEB, vip).await, request).await
}

async fn answers_on(mut stream: TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    // What was sent behind a refused request is not read, so the end may be a reset.
    let _ended = soon("the end of the connection", stream.read_to_end(&mut answers)).await;
    String::from_utf8(answers).unwrap()
}

#[tokio::test]
async fn a_message_with_two_ends_is_400_and_ends_its_connection() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let refused = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Content-Length: 4\r\nContent-Length: 4",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ];
    join_all(refused.map(async |fields| {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{smuggled}");
        let answer = answers(&lab, vip, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{fields}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields}: {answer}");
    }))
    .await;
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn a_client_outside_of_the_mesh_is_held_to_the_same() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let gate = lab.steer(app.addr, LEGACY.ip).await;
    let request =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let stream = TcpStream::connect(gate).await.unwrap();
    let answer = answers_on(stream, request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn a_contradiction_is_found_behind_requests_with_bodies() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let sound = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-End: 1\r\n\r\n";
    let wrong =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = answers(&lab, vip, &format!("{sound}{wrong}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 400 ").count(), 1, "{answer}");
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn a_doubtful_target_is_refused_and_ends_its_connection() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a", "a".repeat(40 * 1024));
    for (head, status) in [
        ("GET http://b/ HTTP/1.1\r\nHost: a", "400"),
        ("GET http://a/ HTTP/1.1", "400"),
        ("GET a HTTP/1.1\r\nHost: a", "400"),
        ("GET * HTTP/1.1\r\nHost: a", "400"),
        ("GET / HTTP/1.1\r\nHost: a:99999", "400"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80", "403"),
        (long.as_str(), "414"),
    ] {
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = answers(&lab, vip, &format!("{head}\r\n\r\n{smuggled}")).await;
        let named = &head[..head.len().min(60)];
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{named}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{named}: {answer}");
    }
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn a_body_arrives_whatever_the_method_and_its_framing() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::echo(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        for method in ["GET", "DELETE", "OPTIONS", "POST"] {
            for framed in [
                "Content-Length: 5\r\n\r\nhello",
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ] {
                let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framed}");
                let answer = answers(&lab, vip, &request).await;
                assert!(
                    answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"),
                    "{name} {method} {framed}: {answer}"
                );
            }
        }
    }
}

#[tokio::test]
async fn trailers_cannot_frame_the_message_anew() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::http(&lab, pod, |request| async {
            let body = request.into_body().collect().await.unwrap();
            let trailers = body.trailers().map_or(0, HeaderMap::len);
            Response::new(full(format!("{trailers}")))
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\nhello\r\n0\r\nTransfer-Encoding: gzip\r\nContent-Length: 3\r\nHost: b\r\n\r\n";
        let answer = answers(&lab, vip, request).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with('0'),
            "{name}: {answer}"
        );
    }
}

#[tokio::test]
async fn bytes_of_another_protocol_are_not_read_as_heads() {
    let lab = Lab::start().await;
    let bytes = "\r\nPOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let addr = speaks(&lab, pod, |mut stream| async move {
            assert!(heard(&mut stream).await);
            let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.write_all(agreed.as_bytes()).await.unwrap();
            let (mut read, mut write) = stream.split();
            // Ends when the client does.
            let _copied = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[addr]).await;
        let mut stream = lab.dial(WEB, vip).await;
        let asked = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(asked.as_bytes()).await.unwrap();
        assert!(soon("101", heard(&mut stream)).await);
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut echoed = vec![0; bytes.len()];
        soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
        assert_eq!(String::from_utf8(echoed).unwrap(), bytes, "{name}");
    }
}
