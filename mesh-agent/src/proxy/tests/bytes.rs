//! Opaque connections, detection, and connections that change protocol.

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::app::{App, full, speaks};
use super::client::{H1, HOST, exchange};
use super::facts::{CART, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

/// Reads to the end of the client's half, then answers with how much it was.
async fn count(mut stream: TcpStream) {
    let mut all = Vec::new();
    if stream.read_to_end(&mut all).await.is_ok() {
        let answer = format!("{} bytes", all.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answer() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = speaks(&lab, pod, count).await;
        let vip = lab.service(name, AppProtocol::Tcp, &[app]).await;

        let mut stream = lab.dial(WEB, vip).await;
        stream.write_all(&vec![7; 300_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = exchange(&mut stream, b"").await.unwrap();

        assert_eq!(String::from_utf8(answer).unwrap(), "300000 bytes", "{name}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let lab = Lab::start().await;
    for (pod, name, protocol) in [
        (CART, "cart", AppProtocol::Tcp),
        (PAY, "pay", AppProtocol::Tcp),
        (CART, "cart-detect", AppProtocol::Detect),
        (PAY, "pay-detect", AppProtocol::Detect),
    ] {
        let app = speaks(&lab, pod, |mut stream| async move {
            stream.write_all(b"220 ready\r\n").await.unwrap();
        })
        .await;
        let vip = lab.service(name, protocol, &[app]).await;

        let mut stream = lab.dial(WEB, vip).await;
        let greeting = exchange(&mut stream, b"").await.unwrap();

        assert_eq!(greeting, b"220 ready\r\n", "{name}");
    }
}

#[tokio::test]
async fn the_first_bytes_tell_http_from_others() {
    let lab = Lab::start().await;
    let web = App::says(&lab, CART, "http").await;
    let bytes = speaks(&lab, PAY, count).await;
    let http_vip = lab.service("cart", AppProtocol::Detect, &[web.addr]).await;
    let tcp_vip = lab.service("pay", AppProtocol::Detect, &[bytes]).await;

    let reply = H1::dial(&lab, WEB, http_vip)
        .await
        .fetch(super::client::get("/"))
        .await;
    assert_eq!(reply.text(), "http");
    let mut stream = lab.dial(WEB, tcp_vip).await;
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(exchange(&mut stream, b"").await.unwrap(), b"14 bytes");
    drop(stream);

    eventually("both records", || {
        lab.a.sum("istio_requests_total", &[("reporter", "source")]) == 1
            && lab
                .a
                .sum("istio_tcp_connections_closed_total", &[("reporter", "source")])
                == 1
    })
    .await;
}

#[tokio::test]
async fn bytes_that_are_no_http_do_not_go_round_the_routes_of_a_port_that_says_http() {
    let lab = Lab::start().await;
    let app = speaks(&lab, PAY, count).await;
    let vip = lab.service("pay", AppProtocol::Http, &[app]).await;

    let mut stream = lab.dial(WEB, vip).await;
    let answer = exchange(&mut stream, b"*1\r\n$4\r\nPING\r\n").await.unwrap();

    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", answer.escape_ascii());
    assert_eq!(
        lab.a
            .sum("istio_tcp_connections_opened_total", &[("reporter", "source")]),
        0
    );
}

#[tokio::test]
async fn a_reset_by_the_application_reaches_the_client_as_one() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = speaks(&lab, pod, |mut stream| async move {
            stream.read_u8().await.unwrap();
            stream.set_zero_linger().unwrap();
        })
        .await;
        let vip = lab.service(name, AppProtocol::Tcp, &[app]).await;

        let mut stream = lab.dial(WEB, vip).await;
        let error = exchange(&mut stream, b"x").await.unwrap_err();

        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{name}");
    }
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_application_as_one() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let (told, mut ends) = tokio::sync::mpsc::unbounded_channel();
        let app = speaks(&lab, pod, move |mut stream| {
            let told = told.clone();
            async move {
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
                told.send(None).unwrap();
                told.send(stream.read_u8().await.err().map(|error| error.kind()))
                    .unwrap();
            }
        })
        .await;
        let vip = lab.service(name, AppProtocol::Tcp, &[app]).await;

        let mut stream = lab.dial(WEB, vip).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(soon("first byte", ends.recv()).await, Some(None));
        stream.set_zero_linger().unwrap();
        drop(stream);

        let end = soon("end", ends.recv()).await.unwrap();
        assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset), "{name}");
        let agent = lab.agent_of(pod);
        eventually("the delivery is forgotten", || agent.flows.true_peers() == 0).await;
        assert_eq!(
            agent.flows.forgotten_late(),
            0,
            "before the port can be another's"
        );
    }
}

#[tokio::test]
async fn a_refused_connection_is_reset_for_an_opaque_client() {
    let lab = Lab::start().await;
    let nobody = TcpListener::bind((CART.ip, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let vip = lab.service("cart", AppProtocol::Tcp, &[nobody]).await;

    let mut stream = lab.dial(WEB, vip).await;
    let error = exchange(&mut stream, b"").await.unwrap_err();

    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(lab.a.logged(2).await[0]["response_flags"], "UF");
}

#[tokio::test]
async fn what_was_dialled_is_what_is_reached() {
    let lab = Lab::start().await;
    let (one, two) = (
        App::says(&lab, CART, "one").await,
        App::says(&lab, CART, "two").await,
    );
    let first = lab.service("one", AppProtocol::Http, &[one.addr]).await;
    let second = lab.service("two", AppProtocol::Http, &[two.addr]).await;

    for (original, expected) in [
        (first, "one"),
        (second, "two"),
        (one.addr, "one"),
        (two.addr, "two"),
    ] {
        let reply = H1::dial(&lab, WEB, original)
            .await
            .fetch(super::client::get("/"))
            .await;
        assert_eq!(reply.text(), expected, "{original}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let lab = Lab::start().await;
    for (pod, name, lines) in [(CART, "cart", 2), (PAY, "pay", 1)] {
        let app = App::http(&lab, pod, echo_upgraded).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;

        let request = Request::get("/chat")
            .header("host", HOST)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .body(full(""))
            .unwrap();
        let mut client = H1::dial(&lab, WEB, vip).await;
        let mut response = client.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS, "{name}");
        assert_eq!(response.headers()[UPGRADE], "websocket");
        let upgraded = soon("upgrade", hyper::upgrade::on(&mut response)).await.unwrap();
        let mut stream = TokioIo::new(upgraded);
        stream.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        soon("echo", stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"ping", "{name}");
        assert_eq!(
            lab.a.load(),
            1,
            "the endpoint is in use for as long as the bytes flow"
        );
        drop(stream);
        eventually("load is given back", || lab.a.load() == 0).await;

        let seen = app.only_seen();
        assert_eq!(seen.header("upgrade"), Some("websocket"), "{name}");
        eventually("records", || {
            lab.a
                .log()
                .iter()
                .filter(|line| line["response_code"] == 101)
                .count()
                >= lines
        })
        .await;
    }
}

/// Agrees to `websocket` and sends back what it gets.
async fn echo_upgraded(
    mut request: Request<hyper::body::Incoming>,
) -> Response<crate::transport::http::Body> {
    let agreed = request.headers()[UPGRADE].clone();
    let tasks = crate::lifecycle::Tasks::new();
    let upgrade = hyper::upgrade::on(&mut request);
    tasks.spawn("echo", async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        // Ends when the client goes away.
        let _ended = tokio::io::copy(&mut read, &mut write).await;
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, agreed)
        .body(full(Bytes::new()))
        .unwrap()
}
