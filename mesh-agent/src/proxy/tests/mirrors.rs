//! Copies of requests: who gets them, what they hold, and that nobody waits for them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::app::{App, full, streamed};
use super::client::{H1, H2, HOST, get, post};
use super::facts::{BANK, CART, LabPod, PAY, WEB, destination_rule, name, route, rule};
use super::lab::{Lab, eventually};
use super::retries::{again, fails};
use crate::mesh::route::{BackendTarget, HttpRule, Mirror, Share};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::{Limits, WrittenPolicy};

fn mirror(service: &str, share: Share) -> Mirror {
    Mirror {
        field: "spec.rules[0].filters[0].requestMirror.backendRef".into(),
        target: BackendTarget::Service(name(service), super::facts::PORT),
        share,
    }
}

/// Requests for `cart` are copied to these.
fn copied_to(lab: &Lab, services: &[&str]) {
    let mut copied = rule("/", &[("cart", 1)], None);
    copied.filters.mirrors = services.iter().map(|name| mirror(name, Share::ALL)).collect();
    routed(lab, &copied);
}

fn routed(lab: &Lab, rule: &HttpRule) {
    lab.change(|facts| facts.http_routes = vec![route("cart", vec![rule.clone()])]);
}

/// The bodies and trailers that an application got.
type Bodies = Arc<Mutex<Vec<(Bytes, Option<HeaderMap>)>>>;

/// Notes what it gets, and answers something that no client must see.
async fn listener(lab: &Lab, pod: LabPod) -> (App, Bodies) {
    let bodies = Bodies::default();
    let noted = Arc::clone(&bodies);
    let app = App::http(lab, pod, move |request| {
        let noted = Arc::clone(&noted);
        async move {
            if let Ok(body) = request.into_body().collect().await {
                let trailers = body.trailers().cloned();
                noted.lock().push((body.to_bytes(), trailers));
            }
            let mut response = Response::new(full("a mirror's answer"));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            response
        }
    })
    .await;
    (app, bodies)
}

async fn outcome(lab: &Lab, outcome: &str, count: u64) {
    eventually(outcome, || {
        lab.a.sum("mesh_mirrored_requests_total", &[("outcome", outcome)]) == count
    })
    .await;
}

#[tokio::test]
async fn several_mirrors_on_either_node_get_what_the_application_gets() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let mut mirrors = Vec::new();
    for (pod, name) in [(CART, "near"), (PAY, "far"), (BANK, "farther")] {
        let mirror = listener(&lab, pod).await;
        lab.service(name, AppProtocol::Http, &[mirror.0.addr]).await;
        mirrors.push(mirror);
    }
    copied_to(&lab, &["near", "far", "farther"]);
    let mut client = H1::dial(&lab, WEB, vip).await;
    for len in [0, 5, 60_000] {
        let body: Bytes = vec![b'a'; len].into();
        let reply = client.fetch(post("/path?q", body.clone())).await;
        assert_eq!((reply.status, reply.body), (StatusCode::OK, body));
    }
    outcome(&lab, "answered", 9).await;
    let id = |seen: &super::app::Seen| seen.header("x-request-id").unwrap().to_owned();
    let mut ids: Vec<_> = app.seen().iter().map(id).collect();
    ids.sort();
    for (mirror, bodies) in &mirrors {
        let mut lens: Vec<_> = bodies.lock().iter().map(|(body, _)| body.len()).collect();
        lens.sort_unstable();
        assert_eq!(lens, [0, 5, 60_000]);
        let mut copied: Vec<_> = mirror.seen().iter().map(id).collect();
        copied.sort();
        assert_eq!(copied, ids, "a copy has the id of its request");
        for seen in mirror.seen() {
            assert_eq!(seen.header("host"), Some("cart.shop-shadow:80"));
            assert_eq!(seen.head.uri, "/path?q");
        }
    }
    // The client made three requests; each mirror on this node reports its own.
    assert_eq!(lab.a.sum("istio_requests_total", &[("reporter", "source")]), 3);
    assert_eq!(
        lab.a.sum(
            "istio_requests_total",
            &[("reporter", "destination"), ("response_code", "418")]
        ),
        3
    );
}

#[tokio::test]
async fn a_streamed_body_is_copied_with_its_trailers() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http2, &[app.addr]).await;
    let (mirror, bodies) = listener(&lab, PAY).await;
    lab.service("far", AppProtocol::Http2, &[mirror.addr]).await;
    copied_to(&lab, &["far"]);
    let (frames, body) = streamed();
    for part in ["one ", "two"] {
        frames
            .send(Frame::data(Bytes::from_static(part.as_bytes())))
            .unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("1"));
    frames.send(Frame::trailers(trailers)).unwrap();
    drop(frames);
    let request = Request::post(format!("http://{HOST}/")).body(body).unwrap();
    let mut client = H2::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(request).await.text(), "one two");
    outcome(&lab, "answered", 1).await;
    let (body, trailers) = bodies.lock().pop().unwrap();
    assert_eq!(
        (&body[..], &trailers.unwrap()["x-end"]),
        (&b"one two"[..], &HeaderValue::from_static("1"))
    );
}

#[tokio::test]
async fn a_share_of_none_gets_none_and_what_is_tried_again_is_copied_once() {
    let lab = Lab::start().await;
    let app = fails(&lab, CART, 2, StatusCode::SERVICE_UNAVAILABLE).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let (all, _) = listener(&lab, CART).await;
    let (none, _) = listener(&lab, CART).await;
    lab.service("all", AppProtocol::Http, &[all.addr]).await;
    lab.service("none", AppProtocol::Http, &[none.addr]).await;
    let mut copied = HttpRule {
        retry: Some(again(2, "503")),
        ..rule("/", &[("cart", 1)], None)
    };
    let nothing = Share {
        numerator: 0,
        denominator: 100,
    };
    copied.filters.mirrors = vec![mirror("all", Share::ALL), mirror("none", nothing)];
    routed(&lab, &copied);
    let reply = H1::dial(&lab, WEB, vip).await.fetch(post("/", "x")).await;
    assert_eq!((reply.status, app.seen().len()), (StatusCode::OK, 3));
    outcome(&lab, "answered", 1).await;
    assert_eq!((all.seen().len(), none.seen().len()), (1, 0));
}

#[tokio::test]
async fn a_mirror_that_reads_nothing_keeps_nobody_waiting() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let done = Arc::new(Notify::new());
    let hold = Arc::clone(&done);
    let mirror = App::http(&lab, PAY, move |request| {
        let hold = Arc::clone(&hold);
        async move {
            hold.notified().await;
            drop(request);
            Response::new(full(""))
        }
    })
    .await;
    lab.service("far", AppProtocol::Http, &[mirror.addr]).await;
    copied_to(&lab, &["far"]);
    // Far more than all buffers on the way hold.
    let body: Bytes = vec![7; 8 << 20].into();
    let reply = H1::dial(&lab, WEB, vip)
        .await
        .fetch(post("/", body.clone()))
        .await;
    assert_eq!(reply.body, body);
    outcome(&lab, "behind", 1).await;
    done.notify_waiters();
}

#[tokio::test]
async fn a_mirror_that_fails_is_nobodys_failure() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    lab.service("empty", AppProtocol::Http, &[]).await;
    copied_to(&lab, &["empty", "unknown"]);
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.text(), "hello");
    // One that is not known is reported when it is read; nobody draws it.
    outcome(&lab, "failed", 1).await;
    let log = lab.a.logged(2).await;
    assert!(log.iter().all(|line| line["response_flags"] == "-"), "{log:?}");
}

#[tokio::test]
async fn limits_and_policies_of_a_mirror_hold_for_copies() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let (mirror, _) = listener(&lab, CART).await;
    lab.service("near", AppProtocol::Http, &[mirror.addr]).await;
    copied_to(&lab, &["near"]);
    let none = WrittenPolicy {
        limits: Some(Limits {
            requests: Some(0),
            ..Limits::default()
        }),
        ..WrittenPolicy::default()
    };
    lab.change(|facts| facts.destination_rules = vec![destination_rule("near", none.clone())]);
    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(get("/")).await.text(), "hello");
    outcome(&lab, "failed", 1).await;
    assert_eq!(mirror.seen().len(), 0);
}

#[tokio::test]
async fn a_client_that_vanishes_breaks_the_copy_off() {
    let lab = Lab::start().await;
    let app = App::echo(&lab, CART).await;
    let vip = lab.service("cart", AppProtocol::Http2, &[app.addr]).await;
    let (mirror, bodies) = listener(&lab, PAY).await;
    lab.service("far", AppProtocol::Http2, &[mirror.addr]).await;
    copied_to(&lab, &["far"]);
    let (frames, body) = streamed();
    frames.send(Frame::data(Bytes::from_static(b"begin"))).unwrap();
    let request = Request::post(format!("http://{HOST}/")).body(body).unwrap();
    let mut client = H2::dial(&lab, WEB, vip).await;
    {
        let mut sent = std::pin::pin!(client.send(request));
        let arrived = eventually("the copy arrives", || mirror.seen().len() == 1);
        tokio::select! {
            _ = &mut sent => panic!("answered before the body's end"),
            () = arrived => {}
        }
    }
    drop((client, frames));
    outcome(&lab, "failed", 1).await;
    assert_eq!(bodies.lock().len(), 0, "no copy looks whole that is not");
}
