//! WebSocket over HTTP/2 (RFC 8441), from clients and to servers that speak it, and from one version to the other.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::{App, full};
use super::client::{H1, H2, HOST};
use super::facts::{CART, LabPod, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::lifecycle::Tasks;
use crate::mesh::service::AppProtocol;
use crate::transport::http::Body;

const SIDES: [(LabPod, &str, usize); 2] = [(CART, "cart", 2), (PAY, "pay", 1)];

/// What a client of HTTP/2 sends.
fn extended(protocol: &'static str) -> Request<Body> {
    let mut request = Request::connect(format!("http://{HOST}/chat"))
        .header("sec-websocket-protocol", "soap")
        .body(full(""))
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

/// What a client of HTTP/1.1 sends.
fn upgrade() -> Request<Body> {
    Request::get("/chat")
        .header("host", HOST)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
        .header(SEC_WEBSOCKET_PROTOCOL, "soap")
        .body(full(""))
        .unwrap()
}

/// A server of either version that agrees and sends back what it gets.
async fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    Tasks::new().spawn("echo", async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        // Ends when the client goes away.
        let _ended = tokio::io::copy(&mut read, &mut write).await;
        let _gone = write.shutdown().await;
    });
    let builder = Response::builder().header(SEC_WEBSOCKET_PROTOCOL, "soap");
    let builder = match request.headers().get(SEC_WEBSOCKET_KEY) {
        None => builder.status(StatusCode::OK),
        Some(key) => builder
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, accept(key.as_bytes())),
    };
    builder.body(full("")).unwrap()
}

fn accept(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
}

/// Asks by the client's version, and checks that it is answered in it.
async fn agreed(lab: &Lab, is_h2: bool, vip: std::net::SocketAddr) -> Response<Incoming> {
    if is_h2 {
        let response = H2::dial(lab, WEB, vip).await.send(extended("websocket")).await;
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        for name in [UPGRADE, CONNECTION, SEC_WEBSOCKET_ACCEPT] {
            assert!(!response.headers().contains_key(&name), "{name}");
        }
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "soap");
        return response;
    }
    let response = H1::dial(lab, WEB, vip).await.send(upgrade()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()[UPGRADE], "websocket");
    // RFC 6455 section 1.3 has both.
    assert_eq!(
        response.headers()[SEC_WEBSOCKET_ACCEPT],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    response
}

#[tokio::test]
async fn a_websocket_goes_from_either_version_to_either_version() {
    for (is_h2_client, is_h2_app) in [(true, true), (true, false), (false, true)] {
        let lab = Lab::start().await;
        for (pod, name, lines) in SIDES {
            let app = if is_h2_app {
                App::extended(&lab, pod, echo).await
            } else {
                App::http(&lab, pod, echo).await
            };
            let protocol = if is_h2_app {
                AppProtocol::Http2
            } else {
                AppProtocol::Http
            };
            let vip = lab.service(name, protocol, &[app.addr]).await;
            let mut response = agreed(&lab, is_h2_client, vip).await;
            let upgraded = soon("upgrade", hyper::upgrade::on(&mut response)).await.unwrap();
            let mut stream = TokioIo::new(upgraded);
            let long = vec![7; 300_000];
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let (sent, back) = tokio::join!(
                async {
                    write.write_all(&long).await?;
                    // The end goes through to the application, and back.
                    write.shutdown().await
                },
                async {
                    let mut back = Vec::new();
                    soon("echo", read.read_to_end(&mut back)).await.map(|_| back)
                }
            );
            sent.unwrap();
            assert_eq!(back.unwrap(), long, "{name}");
            drop(stream);
            eventually("load is given back", || lab.a.load() == 0).await;

            let seen = app.only_seen();
            let expected = if is_h2_app {
                (Method::CONNECT, Version::HTTP_2)
            } else {
                (Method::GET, Version::HTTP_11)
            };
            assert_eq!((seen.head.method.clone(), seen.head.version), expected, "{name}");
            assert_eq!(
                seen.header("sec-websocket-version").is_some(),
                is_h2_client,
                "{name}"
            );
            eventually("records", || {
                let log = lab.a.log();
                let of_websocket = log.iter().filter(|line| {
                    line["response_code"] == 101 && line["method"] == "GET" && line["response_flags"] == "-"
                });
                of_websocket.count() >= lines
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_is_no_agreement_is_none_over_http_2_either() {
    let answers = |status: u16, shown: Option<&'static str>| {
        let mut response = Response::builder().status(status);
        if status == 101 {
            response = response
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "websocket");
        }
        if let Some(shown) = shown {
            response = response.header(SEC_WEBSOCKET_ACCEPT, shown);
        }
        response.body(full("no")).unwrap()
    };
    for (status, shown, expected) in [
        (404, None, 404),
        (302, None, 302),
        (200, None, 503),
        (101, None, 503),
        (101, Some("AAAA"), 503),
    ] {
        let lab = Lab::start().await;
        for (pod, name, _) in SIDES {
            let app = App::http(&lab, pod, move |_| async move { answers(status, shown) }).await;
            let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
            let mut client = H2::dial(&lab, WEB, vip).await;
            let reply = client.fetch(extended("websocket")).await;
            assert_eq!(reply.status, expected, "{name} {status} {shown:?}");
            if status == 404 {
                assert_eq!(reply.text(), "no");
            }
            eventually("nothing is left under way", || lab.a.load() == 0).await;
        }
    }
}

#[tokio::test]
async fn other_protocols_than_websocket_are_not_implemented_and_connect_stays_refused() {
    let lab = Lab::start().await;
    let app = App::extended(&lab, CART, echo).await;
    let vip = lab.service("cart", AppProtocol::Http2, &[app.addr]).await;
    let mut client = H2::dial(&lab, WEB, vip).await;
    let reply = client.fetch(extended("connect-udp")).await;
    assert_eq!(reply.status, StatusCode::NOT_IMPLEMENTED);
    let plain = Request::connect(HOST).body(full("")).unwrap();
    assert_eq!(client.fetch(plain).await.status, StatusCode::FORBIDDEN);
    assert!(app.seen().is_empty());
    let log = lab.a.logged(2).await;
    assert_eq!(
        log[0]["response_code_details"],
        "connect_protocol_not_implemented"
    );
    assert_eq!(log[1]["response_code_details"], "connect_not_allowed");
}
