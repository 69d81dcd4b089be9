//! Bodies that flow: both ways at once, many at a time, after a `100 Continue`, or not at all.

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::{App, full, streamed, written_by_hand};
use super::client::{H1, H2, HOST, call, get2};
use super::facts::{CART, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

/// The next piece of a body, which must be data.
async fn next(body: &mut hyper::body::Incoming) -> Bytes {
    let frame = soon("a piece of the body", body.frame()).await.unwrap().unwrap();
    frame.into_data().unwrap()
}

#[tokio::test]
async fn both_sides_of_a_stream_talk_at_once() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::http(&lab, pod, |request| async {
            Response::new(request.into_body().map_err(Into::into).boxed_unsync())
        })
        .await;
        let vip = lab.service(name, AppProtocol::Grpc, &[app.addr]).await;
        let (frames, body) = streamed();
        let request = Request::post(format!("http://{HOST}/chat")).body(body).unwrap();
        let response = H2::dial(&lab, WEB, vip).await.send(request).await.unwrap();
        let mut back = response.into_body();
        for piece in ["one", "two", "three"] {
            frames
                .send(Frame::data(Bytes::from_static(piece.as_bytes())))
                .unwrap();
            assert_eq!(next(&mut back).await, piece, "{name}");
        }
        drop(frames);
        let rest = soon("end", back.collect()).await.unwrap();
        assert_eq!(rest.to_bytes(), "", "{name}");
    }
}

#[tokio::test]
async fn three_hundred_streams_of_one_client_are_open_at_once() {
    let lab = Lab::start().await;
    let (app, mut bodies) = written_by_hand(&lab, PAY).await;
    let vip = lab.service("pay", AppProtocol::Http2, &[app.addr]).await;
    let client = H2::dial(&lab, WEB, vip).await;

    let opening = (0..300).map(|_| {
        let mut sender = client.0.clone();
        async move { sender.send_request(get2("/")).await.unwrap() }
    });
    let responses = soon("300 responses", join_all(opening)).await;
    assert_eq!(lab.a.load(), 300);
    for _ in &responses {
        drop(soon("a body", bodies.recv()).await.unwrap());
    }
    for response in responses {
        let body = soon("its end", response.into_body().collect()).await.unwrap();
        assert_eq!(body.to_bytes(), "begin ");
    }
    eventually("load is given back", || lab.a.load() == 0).await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::echo(&lab, pod).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let mut stream = lab.dial(WEB, vip).await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 25];
        soon("100 Continue", stream.read_exact(&mut first)).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n", "{name}");
        let answer = super::client::exchange(&mut stream, b"body").await.unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"body"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_length_of_a_body_that_is_not_sent_is_told() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        let mut client = H1::dial(&lab, WEB, vip).await;
        for _ in 0..2 {
            let head = Request::head("/").header("host", HOST).body(full("")).unwrap();
            let reply = client.fetch(head).await;
            assert_eq!(
                (
                    reply.headers["content-length"].to_str().unwrap(),
                    reply.body.len()
                ),
                ("5", 0),
                "{name}"
            );
        }
    }
}

/// Each message says whether it is compressed, and only the ends know how: not a byte of it may change.
#[tokio::test]
async fn grpc_compression_is_between_client_and_server() {
    const MESSAGE: &[u8] = b"\x01\0\0\0\x04\x1f\x8b\x08\0";
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::http(&lab, pod, |request| async {
            let mut response = Response::new(request.into_body().map_err(Into::into).boxed_unsync());
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
            headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip"));
            response
        })
        .await;
        let vip = lab.service(name, AppProtocol::Grpc, &[app.addr]).await;
        let mut request = call(MESSAGE);
        let headers = request.headers_mut();
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
        let reply = H2::dial(&lab, WEB, vip).await.fetch(request).await;
        assert_eq!(reply.body, MESSAGE, "{name}");
        assert_eq!(reply.headers["grpc-encoding"], "gzip", "{name}");
        assert_eq!(reply.headers["grpc-accept-encoding"], "identity,gzip", "{name}");
        let seen = app.only_seen();
        assert_eq!(seen.header("grpc-encoding"), Some("gzip"), "{name}");
        assert_eq!(seen.header("grpc-accept-encoding"), Some("gzip"), "{name}");
    }
}
