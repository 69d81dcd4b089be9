//! `proxyProtocol`: servers outside of the mesh are told who is behind each connection, and of one client only.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{App, speaks};
use super::backends::{HOST, says};
use super::client::{H1, exchange, get};
use super::facts::{CART, LEGACY, PAY, WEB, destination_rule};
use super::lab::Lab;
use crate::identity::testing::tls_server;
use crate::mesh::backend_tls::{BackendTls, TrustedRoots, WrittenTls};
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::WrittenPolicy;
use crate::transport::proxy_header::introduce;

/// Reads what a connection begins with, byte by byte, so that nothing behind it is touched.
async fn header(stream: &mut TcpStream, version: ProxyProtocol) -> std::io::Result<Vec<u8>> {
    let mut header = Vec::new();
    let is_whole = |header: &[u8]| match version {
        ProxyProtocol::V1 => header.ends_with(b"\r\n"),
        ProxyProtocol::V2 => header.len() >= 16 && header.len() == 16 + usize::from(header[15]),
    };
    while !is_whole(&header) {
        header.push(stream.read_u8().await?);
    }
    Ok(header)
}

fn told(header: &[u8]) -> String {
    header.escape_ascii().to_string()
}

/// An HTTP server that answers with what its connection began with, inside of TLS if it is so; with the root of its
/// certificate.
async fn serve(lab: &Lab, version: ProxyProtocol, is_inside_tls: bool) -> (SocketAddr, String) {
    let (acceptor, root) = tls_server(&[HOST]);
    let addr = speaks(lab, LEGACY, move |mut stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(header) = header(&mut stream, version).await else {
                return;
            };
            let said = told(&header);
            let service = service_fn(move |_: Request<Incoming>| says(said.clone()));
            let builder = http1::Builder::new();
            // An error is a client that went away.
            let _served = if is_inside_tls {
                let stream = acceptor.accept(stream).await.unwrap();
                builder.serve_connection(TokioIo::new(stream), service).await
            } else {
                builder.serve_connection(TokioIo::new(stream), service).await
            };
        }
    })
    .await;
    (addr, root)
}

fn rule(lab: &Lab, service: &str, version: ProxyProtocol, tls: Option<WrittenTls>) {
    let written = WrittenPolicy {
        proxied: Some(version),
        tls,
        ..WrittenPolicy::default()
    };
    lab.change(|facts| facts.destination_rules = vec![destination_rule(service, written.clone())]);
}

#[tokio::test]
async fn each_connection_of_http_tells_of_one_client_and_carries_no_others_requests() {
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let lab = Lab::start().await;
        let (app, _) = serve(&lab, version, false).await;
        let vip = lab.service("cart", AppProtocol::Http, &[app]).await;
        rule(&lab, "cart", version, None);
        for _ in 0..2 {
            let stream = lab.dial(WEB, vip).await;
            let own = stream.local_addr().unwrap();
            let mut client = H1::on(&lab, stream).await;
            for _ in 0..2 {
                let reply = client.fetch(get("/")).await;
                assert_eq!(reply.text(), told(&introduce(version, own, vip)));
            }
        }
    }
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let lab = Lab::start().await;
    let (app, root) = serve(&lab, ProxyProtocol::V1, true).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app]).await;
    let tls = BackendTls {
        roots: TrustedRoots::Pem(root.into()),
        name: Some(HOST.into()),
        ..BackendTls::impossible()
    };
    rule(
        &lab,
        "cart",
        ProxyProtocol::V1,
        Some(WrittenTls::Begun(Arc::new(tls))),
    );
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert!(reply.text().starts_with("PROXY TCP4 "), "{}", reply.text());
}

#[tokio::test]
async fn bytes_that_are_no_http_follow_the_header() {
    let lab = Lab::start().await;
    let app = speaks(&lab, LEGACY, |mut stream| async move {
        let mut said = header(&mut stream, ProxyProtocol::V1).await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        said.extend(word);
        stream.write_all(&said).await.unwrap();
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Tcp, &[app]).await;
    rule(&lab, "cart", ProxyProtocol::V1, None);
    let mut client = lab.dial(WEB, vip).await;
    let own = client.local_addr().unwrap();
    let back = exchange(&mut client, b"ping").await.unwrap();
    let expected = [&introduce(ProxyProtocol::V1, own, vip)[..], b"ping"].concat();
    assert_eq!(back, expected);
}

#[tokio::test]
async fn pods_of_the_mesh_see_their_client_themselves_and_are_told_nothing() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        rule(&lab, name, ProxyProtocol::V1, None);
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "hello"), "{name}");
    }
}
