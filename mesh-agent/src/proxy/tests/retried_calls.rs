//! gRPC calls that are tried again: by their status, as long as no message came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;

use super::app::{App, grpc, streamed};
use super::client::{H2, call};
use super::facts::{CART, LabPod, PAY, WEB};
use super::lab::{Lab, soon};
use super::retries::{again, retrying};
use crate::mesh::service::AppProtocol;
use crate::transport::http::Body;

/// Answers `first`, then a message and 0.
async fn calls(lab: &Lab, pod: LabPod, first: Answer) -> App {
    let asked = Arc::new(AtomicUsize::new(0));
    App::http(lab, pod, move |_| {
        let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        async move { if is_first { first() } else { grpc(MESSAGE, 0) } }
    })
    .await
}

type Answer = fn() -> Response<Body>;

const MESSAGE: &[u8] = b"\0\0\0\0\x01x";

fn without_message(in_head: bool) -> Response<Body> {
    let (frames, body) = streamed();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    let mut response = Response::new(body);
    if in_head {
        response.headers_mut().extend(trailers);
    } else {
        frames.send(Frame::trailers(trailers)).unwrap();
    }
    let content = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", content);
    response
}

#[tokio::test]
async fn a_grpc_status_is_a_reason_in_the_head_and_in_trailers_without_a_message() {
    let lab = Lab::start().await;
    let cases: [(&str, Answer, usize); 3] = [
        ("head", || without_message(true), 2),
        ("trailers", || without_message(false), 2),
        ("message", || grpc(MESSAGE, 14), 1),
    ];
    for (pod, node) in [(CART, "near"), (PAY, "far")] {
        for (name, first, attempts) in cases {
            let name = format!("{node}-{name}");
            let app = calls(&lab, pod, first).await;
            let vip = lab.service(&name, AppProtocol::Grpc, &[app.addr]).await;
            retrying(&lab, &name, &again(1, "unavailable"));
            let reply = H2::dial(&lab, WEB, vip).await.fetch(call(MESSAGE)).await;
            assert_eq!((&reply.body[..], app.seen().len()), (MESSAGE, attempts), "{name}");
            let status = reply.trailers.unwrap()["grpc-status"].clone();
            assert_eq!(status, if attempts == 1 { "14" } else { "0" }, "{name}");
        }
    }
}

#[tokio::test]
async fn a_call_whose_client_still_speaks_gets_the_head_of_its_response() {
    let lab = Lab::start().await;
    // Says nothing before it has heard all that the client says.
    let tasks = lab.tasks.clone();
    let app = App::http(&lab, CART, move |request| {
        let (frames, body) = streamed();
        tasks.spawn("listener", async move {
            let heard = request.into_body().collect().await.unwrap().to_bytes();
            frames.send(Frame::data(heard)).unwrap();
        });
        let mut response = Response::new(body);
        let content = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", content);
        async move { response }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Grpc, &[app.addr]).await;
    retrying(&lab, "cart", &again(1, "unavailable"));
    let (frames, body) = streamed();
    let mut request = call(b"");
    *request.body_mut() = body;
    frames.send(Frame::data(Bytes::from_static(b"first"))).unwrap();
    let mut client = H2::dial(&lab, WEB, vip).await;
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    frames.send(Frame::data(Bytes::from_static(b"second"))).unwrap();
    drop(frames);
    let body = soon("body", response.into_body().collect()).await.unwrap();
    assert_eq!(body.to_bytes(), "firstsecond");
}
