//! Peers that go away, break, or panic; pods and agents that stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;

use super::app::{App, full, streamed};
use super::client::{H1, H2, exchange, get, get2, post};
use super::facts::{CART, LabPod, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

/// An application whose responses are written by the test, one piece at a time.
async fn written_by_hand(
    lab: &Lab,
    pod: LabPod,
) -> (
    App,
    tokio::sync::mpsc::UnboundedReceiver<UnboundedSender<Frame<Bytes>>>,
) {
    let (hand, bodies) = tokio::sync::mpsc::unbounded_channel();
    let app = App::http(lab, pod, move |_| {
        let (frames, body) = streamed();
        frames.send(Frame::data(Bytes::from_static(b"begin "))).unwrap();
        // A test that is over takes no more bodies.
        let _taken = hand.send(frames);
        async move { Response::new(body) }
    })
    .await;
    (app, bodies)
}

#[tokio::test]
async fn a_client_that_vanishes_frees_the_endpoint_and_counts_as_disconnected() {
    let lab = Lab::start().await;
    for (pod, name, is_h2) in [
        (CART, "cart", false),
        (PAY, "pay", false),
        (CART, "cart2", true),
        (PAY, "pay2", true),
    ] {
        let (_app, mut bodies) = written_by_hand(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[_app.addr]).await;
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
        let listener = TcpListener::bind((pod.ip, 0)).await.unwrap();
        let vip = lab
            .service(name, AppProtocol::Http, &[listener.local_addr().unwrap()])
            .await;
        let (die, dies) = tokio::sync::oneshot::channel::<()>();
        lab.tasks.spawn("app", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            stream.read(&mut head).await.unwrap();
            let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
            stream.write_all(half).await.unwrap();
            dies.await.unwrap();
            stream.set_zero_linger().unwrap();
        });

        let response = H1::dial(&lab, WEB, vip).await.send(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        die.send(()).unwrap();
        assert!(
            response.into_body().collect().await.is_err(),
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
    let (_streaming, mut bodies) = written_by_hand(&lab, PAY).await;
    let far = lab.service("pay", AppProtocol::Http, &[_streaming.addr]).await;
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
    let listener = TcpListener::bind((pod.ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    lab.tasks.spawn("app", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            stream.read(&mut head).await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .unwrap();
        }
    });
    (addr, served)
}

#[tokio::test]
async fn a_kept_connection_that_the_application_closed_fails_no_request() {
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
    let listener = TcpListener::bind((CART.ip, 0)).await.unwrap();
    let vip = lab
        .service("cart", AppProtocol::Http, &[listener.local_addr().unwrap()])
        .await;
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let tasks = lab.tasks.clone();
    lab.tasks.spawn("app", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tasks.spawn("app-connection", async move {
                let mut head = [0; 1024];
                stream.read(&mut head).await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await
                    .unwrap();
                // Reads the second request of this connection and closes it without an answer.
                if stream.read(&mut head).await.unwrap_or(0) > 0 {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });

    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(post("/", "first")).await.status, 200);
    assert_eq!(client.fetch(post("/", "second")).await.status, 503);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

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
    let mut client = lab.dial(WEB, vip).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let answer = soon("question", questions.recv()).await.unwrap();
    lab.a.tasks.request_stop();
    eventually("the stop is seen", || lab.a.tasks.stop().is_requested()).await;
    tokio::task::yield_now().await;
    answer.send(()).unwrap();

    let all = exchange(&mut client, b"").await.unwrap();
    let text = String::from_utf8(all).unwrap();
    assert!(text.contains("connection: close"), "{text}");
    assert!(text.ends_with("last"), "{text}");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_clients_that_say_nothing() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let mut silent = lab.dial(WEB, vip).await;
    let captured = [("direction", "outbound")];
    eventually("accepted", || {
        lab.a.sum("mesh_captured_connections_total", &captured) == 1.0
    })
    .await;

    lab.a.tasks.request_stop();

    assert_eq!(exchange(&mut silent, b"").await.unwrap(), b"");
    assert!(lab.a.tasks.joined(std::time::Duration::from_secs(8)).await);
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
    let listener = TcpListener::bind((CART.ip, 0)).await.unwrap();
    let vip = lab
        .service("cart", AppProtocol::Http, &[listener.local_addr().unwrap()])
        .await;
    let tasks = lab.tasks.clone();
    lab.tasks.spawn("app", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tasks.spawn("app-connection", async move {
                let mut head = [0; 1024];
                while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let answers = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue\
                        HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
                    if stream.write_all(answers).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    for _ in 0..20 {
        assert_eq!(client.fetch(get("/")).await.text(), "true");
    }
}

#[tokio::test]
async fn a_change_of_protocol_that_nobody_asked_for_is_no_answer() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let listener = TcpListener::bind((pod.ip, 0)).await.unwrap();
        let vip = lab
            .service(name, AppProtocol::Http, &[listener.local_addr().unwrap()])
            .await;
        lab.tasks.spawn("app", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                stream.read(&mut head).await.unwrap();
                let switch =
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nxyz";
                stream.write_all(switch).await.unwrap();
            }
        });
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!(reply.status, 503, "{name}");
    }
}
