//! `tunnel`: bytes that are no HTTP go through a forward proxy, which is asked for the connection first.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{App, speaks};
use super::client::{H1, exchange, get};
use super::facts::{CART, LEGACY, LabPod, WEB, destination_rule};
use super::lab::{Lab, eventually};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::WrittenPolicy;

const TARGET: &str = "db.example.com:5432";

/// Reads the head of a request, byte by byte, so that nothing behind it is touched.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A forward proxy: reads what it is asked, says `answer`, and then sends back what it is sent, behind what it was asked.
async fn forward_proxy(lab: &Lab, pod: LabPod, answer: &'static [u8]) -> SocketAddr {
    speaks(lab, pod, move |mut stream| async move {
        let asked = head(&mut stream).await;
        stream.write_all(answer).await.unwrap();
        let mut word = [0; 4];
        // The client is gone where no tunnel came about.
        if stream.read_exact(&mut word).await.is_ok() {
            stream.write_all(asked.as_bytes()).await.unwrap();
            stream.write_all(&word).await.unwrap();
        }
    })
    .await
}

fn rule(lab: &Lab, service: &str) {
    let written = WrittenPolicy {
        tunnel: Some(TARGET.parse().unwrap()),
        ..WrittenPolicy::default()
    };
    lab.change(|facts| facts.destination_rules = vec![destination_rule(service, written.clone())]);
}

#[tokio::test]
async fn bytes_follow_the_answer_to_connect_wherever_the_forward_proxy_is() {
    for (pod, name) in [(LEGACY, "outside"), (CART, "in the mesh")] {
        let lab = Lab::start().await;
        let app = forward_proxy(&lab, pod, b"HTTP/1.1 200 OK\r\n\r\n").await;
        let vip = lab.service("cart", AppProtocol::Tcp, &[app]).await;
        rule(&lab, "cart");
        let mut client = lab.dial(WEB, vip).await;
        let back = exchange(&mut client, b"ping").await.unwrap();
        let back = String::from_utf8(back).unwrap();
        assert_eq!(
            back,
            format!("CONNECT {TARGET} HTTP/1.1\r\nhost: {TARGET}\r\n\r\nping"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn what_the_far_end_says_at_once_is_not_lost() {
    let lab = Lab::start().await;
    let app = forward_proxy(
        &lab,
        LEGACY,
        b"HTTP/1.1 200 OK\r\n\r\n5.7.44-server-speaks-first ",
    )
    .await;
    let vip = lab.service("cart", AppProtocol::Tcp, &[app]).await;
    rule(&lab, "cart");
    let mut client = lab.dial(WEB, vip).await;
    let back = exchange(&mut client, b"ping").await.unwrap();
    assert!(back.starts_with(b"5.7.44-server-speaks-first CONNECT "));
}

#[tokio::test]
async fn a_forward_proxy_that_refuses_or_speaks_something_else_ends_in_a_reset() {
    for (answer, details) in [
        (
            &b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"[..],
            "tunnel_refused{407}",
        ),
        // With a body, on a connection that stays open.
        (
            b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
            "tunnel_refused{403}",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "upstream_http_handshake_failed"),
    ] {
        let lab = Lab::start().await;
        let app = forward_proxy(&lab, LEGACY, answer).await;
        let vip = lab.service("cart", AppProtocol::Tcp, &[app]).await;
        rule(&lab, "cart");
        let mut client = lab.dial(WEB, vip).await;
        assert!(
            exchange(&mut client, b"ping").await.is_err(),
            "{}",
            answer.escape_ascii()
        );
        let agent = lab.agent_of(WEB);
        let is_told = |line: &serde_json::Value| line["connection_termination_details"] == details;
        eventually(details, || agent.log().iter().any(is_told)).await;
    }
}

#[tokio::test]
async fn requests_go_without_a_tunnel() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    rule(&lab, "cart");
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "hello"));
}
