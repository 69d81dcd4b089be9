//! What becomes of heads on their way, and which requests are refused for their form.

use http::Version;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::app::{App, heard, speaks};
use super::client::{H1, H2, exchange, get, get2};
use super::facts::{CART, LEGACY, PAY, WEB};
use super::lab::Lab;
use crate::mesh::service::AppProtocol;

/// Sends raw bytes, which should ask for `Connection: close`, and returns the answer.
async fn raw(lab: &Lab, vip: std::net::SocketAddr, request: &str) -> String {
    let mut stream = lab.dial(WEB, vip).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    String::from_utf8(exchange(&mut stream, b"").await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_authority_and_a_host_line_stand_for_one_another() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let h2_only = lab
            .service(&format!("{name}-h2"), AppProtocol::Http2, &[app.addr])
            .await;

        H1::dial(&lab, WEB, h2_only).await.fetch(get("/up")).await;

        let seen = app.only_seen();
        assert_eq!(seen.head.version, Version::HTTP_2, "{name}");
        assert_eq!(seen.head.uri, "http://cart.shop:80/up", "{name}");
        assert_eq!(seen.header("host"), None, "{name}");
    }
}

#[tokio::test]
async fn a_target_that_names_the_host_travels_as_a_path_and_host() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;

    let request =
        "GET http://Target.example:80/a HTTP/1.1\r\nHost: target.example\r\nConnection: close\r\n\r\n";
    assert!(raw(&lab, vip, request).await.starts_with("HTTP/1.1 200 "));

    let seen = app.only_seen();
    assert_eq!(
        (seen.header("host"), seen.head.uri.path()),
        (Some("Target.example:80"), "/a")
    );
}

#[tokio::test]
async fn requests_of_a_forbidden_form_are_400_and_reach_nobody() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    for (why, head) in [
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n"),
        ("the same host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n"),
        ("no host", "GET / HTTP/1.1\r\n"),
        ("a host that is none", "GET / HTTP/1.1\r\nHost: a/b\r\n"),
        ("user information", "GET / HTTP/1.1\r\nHost: user@a\r\n"),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n",
        ),
        (
            "chunked is not last",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n",
        ),
        (
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n"),
        ("a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n"),
        (
            "a bare carriage return",
            "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n",
        ),
    ] {
        let answer = raw(&lab, vip, &format!("{head}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{why}: {answer:?}");
    }
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn an_http_1_0_client_needs_no_host() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;

    let answer = raw(&lab, vip, "GET / HTTP/1.0\r\n\r\n").await;

    assert!(
        answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("hello"),
        "{answer}"
    );
    assert_eq!(app.only_seen().header("host"), Some(vip.to_string().as_str()));
}

#[tokio::test]
async fn naming_a_field_in_connection_does_not_take_the_length_away() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;

    let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, content-length, host\r\nContent-Length: 4\r\n\r\nbody";
    let answer = raw(&lab, vip, request).await;

    assert!(answer.ends_with("body"), "{answer}");
    let seen = app.only_seen();
    assert_eq!(
        (seen.header("host"), seen.header("content-length")),
        (Some("a"), Some("4"))
    );
}

#[tokio::test]
async fn a_head_of_32_kib_passes_on_every_path_and_one_of_a_megabyte_on_none() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::http(&lab, pod, |request| async move {
            let mut response = http::Response::new(super::app::full("hello"));
            if let Some(large) = request.headers().get("x-large") {
                response.headers_mut().insert("x-large", large.clone());
            }
            response
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let large = "a".repeat(32 * 1024);

        let mut request = get("/");
        request.headers_mut().insert("x-large", large.parse().unwrap());
        let reply = H1::dial(&lab, WEB, vip).await.fetch(request).await;
        assert_eq!(
            (reply.status.as_u16(), reply.headers["x-large"].len()),
            (200, large.len()),
            "{name} HTTP/1.1"
        );

        let huge = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}",
            "a".repeat(1024 * 1024)
        );
        let mut stream = lab.dial(WEB, vip).await;
        // The agent may close before it has read all.
        let _sent = stream.write_all(huge.as_bytes()).await;
        let mut answer = [0; 12];
        let answered = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await;
        assert!(
            answered.is_err() || &answer == b"HTTP/1.1 431",
            "{name}: {}",
            answer.escape_ascii()
        );
        assert_eq!(app.seen().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn cookies_that_http_2_split_are_one_line_again() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "hello").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let mut request = get("/");
    request.headers_mut().append("cookie", "a=1".parse().unwrap());
    request.headers_mut().append("cookie", "b=2".parse().unwrap());
    H1::dial(&lab, WEB, vip).await.fetch(request).await;
    assert_eq!(app.only_seen().header("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn options_of_the_server_itself_keeps_its_asterisk() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let answer = raw(
            &lab,
            vip,
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
        assert_eq!(app.only_seen().head.uri, "*", "{name}");
    }
}

#[tokio::test]
async fn a_request_without_an_id_gets_one_and_one_with_keeps_it() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "hello").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let mut client = H2::dial(&lab, WEB, vip).await;
    client.fetch(get2("/")).await;
    let mut request = get2("/");
    request
        .headers_mut()
        .insert("x-request-id", "mine".parse().unwrap());
    client.fetch(request).await;
    let ids: Vec<_> = app
        .seen()
        .iter()
        .map(|seen| seen.header("x-request-id").map(str::to_owned))
        .collect();
    assert_eq!(ids[0].as_ref().unwrap().len(), 36);
    assert_eq!(ids[1].as_deref(), Some("mine"));
}

#[tokio::test]
async fn a_response_says_its_length_in_one_way() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let addr = speaks(&lab, pod, |mut stream| async move {
            assert!(heard(&mut stream).await);
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked";
            let answer = format!("{head}\r\n\r\n5\r\nwhole\r\n0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[addr]).await;
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!(reply.text(), "whole", "{name}");
        assert_eq!(reply.headers.get("content-length"), None, "{name}");
    }
}

#[tokio::test]
async fn who_asks_is_said_by_the_agent_and_what_proxies_said_stays_as_it_came() {
    let lab = Lab::start().await;
    let forged = [
        (
            "x-forwarded-client-cert",
            "URI=spiffe://cluster.local/ns/bank/sa/root",
        ),
        ("x-forwarded-for", "192.0.2.1, 192.0.2.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.org"),
        ("via", "1.1 edge"),
    ];
    let asking = || {
        let mut request = get("/");
        for (name, value) in forged {
            let value = http::HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        request
    };
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        H1::dial(&lab, WEB, vip).await.fetch(asking()).await;
        let gate = lab.steer(app.addr, LEGACY.ip).await;
        let outside = TcpStream::connect(gate).await.unwrap();
        H1::on(&lab, outside).await.fetch(asking()).await;

        let [from_web, from_outside] = &app.seen()[..] else {
            panic!("{name}: not two requests");
        };
        let element = format!("By={};Subject=\"\";URI={}", pod.identity(), WEB.identity());
        assert_eq!(
            from_web.header("x-forwarded-client-cert"),
            Some(&*element),
            "{name}"
        );
        assert_eq!(from_outside.header("x-forwarded-client-cert"), None, "{name}");
        for (field, value) in &forged[1..] {
            assert_eq!(from_web.header(field), Some(*value), "{name}");
            assert_eq!(from_outside.header(field), Some(*value), "{name}");
        }
    }
}
