//! Peers that go away, break, stand still, or make a connection panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::app::{App, full, heard, speaks, written_by_hand};
use super::client::{H1, H2, exchange, get, get2, post};
use super::facts::{CART, LabPod, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

#[tokio::test]
async fn a_client_that_vanishes_frees_the_endpoint_and_counts_as_disconnected() {
    let lab = Lab::start().await;
    for (pod, name, is_h2) in [
        (CART, "cart", false),
        (PAY, "pay", false),
        (CART, "cart2", true),
        (PAY, "pay2", true),
    ] {
        let (app, mut bodies) = written_by_hand(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let before = lab.a.log().len();

        let response = if is_h2 {
            H2::dial(&lab, WEB, vip).await.send(get2("/")).await.unwrap()
        } else {
            H1::dial(&lab, WEB, vip).await.send(get("/")).await.unwrap()
        };
        let frames = soon("response", bodies.recv()).await.unwrap();
        assert_eq!(lab.a.load(), 1);
        drop(response);

        eventually("load is given back", || lab.a.load() == 0).await;
        soon("the application notices", frames.closed()).await;
        for line in lab.a.logged(before + 1).await.iter().skip(before) {
            assert_eq!(line["response_flags"], "DC", "{line}");
        }
    }
}

#[tokio::test]
async fn a_client_that_vanishes_before_the_response_frees_the_endpoint() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::http(&lab, pod, |_| std::future::pending()).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let mut stream = lab.dial(WEB, vip).await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        eventually("the request arrives", || app.seen().len() == 1).await;
        assert_eq!(lab.a.load(), 1);
        drop(stream);
        eventually("load is given back", || lab.a.load() == 0).await;
        assert_eq!(lab.a.logged(1).await[0]["response_flags"], "DC", "{name}");
    }
}

#[tokio::test]
async fn a_reset_during_the_response_cuts_it_for_the_client_too() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let die = Arc::new(Notify::new());
        let dies = Arc::clone(&die);
        let addr = speaks(&lab, pod, move |mut stream| {
            let dies = Arc::clone(&dies);
            async move {
                assert!(heard(&mut stream).await);
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
                stream.write_all(half).await.unwrap();
                dies.notified().await;
                stream.set_zero_linger().unwrap();
            }
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[addr]).await;

        let response = H1::dial(&lab, WEB, vip).await.send(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        die.notify_one();
        assert!(
            soon("body", response.into_body().collect()).await.is_err(),
            "{name}: cut, not ended"
        );
        let log = lab.a.logged(1).await;
        assert_eq!(log.last().unwrap()["response_flags"], "UC", "{name}");
    }
}

#[tokio::test]
async fn a_panic_in_one_connection_leaves_the_others_alone() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let bytes = lab.service("bytes", AppProtocol::Tcp, &[app.addr]).await;
    let (streaming, mut bodies) = written_by_hand(&lab, PAY).await;
    let far = lab.service("pay", AppProtocol::Http, &[streaming.addr]).await;
    let response = H1::dial(&lab, WEB, far).await.send(get("/")).await.unwrap();
    let frames = soon("response", bodies.recv()).await.unwrap();

    lab.a.flows.panic_once();
    let mut stream = lab.dial(WEB, bytes).await;
    // Closed, in whichever way.
    let _closed = exchange(&mut stream, b"x").await;
    eventually("the panic is counted", || lab.a.tasks.panics() == 1).await;

    frames.send(Frame::data(Bytes::from_static(b"end"))).unwrap();
    drop(frames);
    let body = soon("body", response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(body, "begin end");
    assert_eq!(
        H1::dial(&lab, WEB, vip).await.fetch(get("/")).await.text(),
        "hello"
    );
}

/// An application that answers one request a connection and then closes it, having promised to keep it.
async fn forgetful(lab: &Lab, pod: LabPod) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let addr = speaks(lab, pod, move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            assert!(heard(&mut stream).await);
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    (addr, served)
}

#[tokio::test]
async fn a_kept_connection_that_theapplication_closed_fails_no_request() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let (addr, served) = forgetful(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[addr]).await;
        let mut client = H1::dial(&lab, WEB, vip).await;
        for turn in 1..=20 {
            assert_eq!(client.fetch(get("/")).await.status, 200, "{name} {turn}");
            assert_eq!(served.load(Ordering::Relaxed), turn, "{name}: each once");
        }
    }
}

#[tokio::test]
async fn a_post_that_was_read_is_never_delivered_twice() {
    let lab = Lab::start().await;
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    // Answers the first request of a connection, and reads the second one only.
    let addr = speaks(&lab, CART, move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            assert!(heard(&mut stream).await);
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            if heard(&mut stream).await {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[addr]).await;

    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(post("/", "")).await.status, 200);
    assert_eq!(client.fetch(post("/", "")).await.status, 503);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_early_answer_to_an_upload_leaves_no_connection_that_others_wait_for() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "no need").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let mut uploading = lab.dial(WEB, vip).await;
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly a part";
        uploading.write_all(head).await.unwrap();
        let mut answer = [0; 12];
        soon("answer", uploading.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");

        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!(reply.text(), "no need", "{name}");
    }
}

#[tokio::test]
async fn readers_that_stand_still_do_not_hold_up_their_neighbours() {
    let lab = Lab::start().await;
    let app = App::http(&lab, PAY, |request| async move {
        let large = request.uri().path() == "/large";
        Response::new(full(if large {
            vec![7; 16 << 20]
        } else {
            b"small".to_vec()
        }))
    })
    .await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let mut standing = Vec::new();
    for _ in 0..8 {
        let mut client = lab.dial(WEB, vip).await;
        client
            .write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 12];
        soon("answer", client.read_exact(&mut answer)).await.unwrap();
        standing.push(client);
    }

    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..100 {
        assert_eq!(client.fetch(get("/small")).await.text(), "small");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_given_to_nobody() {
    let lab = Lab::start().await;
    let addr = speaks(&lab, CART, |mut stream| async move {
        let answers = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue\
            HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
        while heard(&mut stream).await && stream.write_all(answers).await.is_ok() {}
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[addr]).await;
    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..20 {
        assert_eq!(client.fetch(get("/")).await.text(), "true");
    }
}

#[tokio::test]
async fn a_change_of_protocol_that_nobody_asked_for_is_no_answer() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let addr = speaks(&lab, pod, |mut stream| async move {
            assert!(heard(&mut stream).await);
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nxyz";
            stream.write_all(switch).await.unwrap();
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[addr]).await;
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!(reply.status, 502, "{name}");
    }
}
