//! Requests that are tried again: for which reasons, where, with which body.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Collected};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::app::{App, full, heard, speaks, streamed};
use super::balance::hashing;
use super::client::{H1, H2, HOST, Reply, get, post};
use super::facts::{CART, LabPod, PAY, WEB, destination_rule, node, route, rule};
use super::lab::{Lab, eventually};
use crate::mesh::node::Node;
use crate::mesh::route::{HttpRule, RetryPolicy};
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::{HashKey, LocalityPolicy, WrittenBalancer, WrittenPolicy};
use crate::transport::http::Body;

/// So many further attempts for these reasons, at once.
pub(super) fn again(attempts: u32, on: &str) -> RetryPolicy {
    RetryPolicy {
        attempts,
        on: RetryPolicy::read_words(on).0,
        backoff: Duration::from_micros(1),
        least_pause: Duration::ZERO,
        avoids_previous: true,
        leaves_localities: false,
    }
}

/// Requests for `service` are tried again.
pub(super) fn retrying(lab: &Lab, service: &str, policy: &RetryPolicy) {
    let retried = HttpRule {
        retry: Some(policy.clone()),
        ..rule("/", &[(service, 1)], None)
    };
    lab.change(|facts| facts.http_routes = vec![route(service, vec![retried.clone()])]);
}

/// Fails `times` times, then echoes.
pub(super) async fn fails(lab: &Lab, pod: LabPod, times: usize, status: StatusCode) -> App {
    let asked = Arc::new(AtomicUsize::new(0));
    App::http(lab, pod, move |request| {
        let is_bad = asked.fetch_add(1, Ordering::Relaxed) < times;
        async move {
            let body = request.into_body().collect().await;
            let body = body.map(Collected::to_bytes).unwrap_or_default();
            let mut response = Response::new(full(if is_bad { Bytes::new() } else { body }));
            if is_bad {
                *response.status_mut() = status;
            }
            response
        }
    })
    .await
}

const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

#[tokio::test]
async fn an_answer_that_is_a_reason_is_not_seen_by_the_client() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = fails(&lab, pod, 2, UNAVAILABLE).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        retrying(&lab, name, &again(2, "503"));

        let reply = H1::dial(&lab, WEB, vip).await.fetch(post("/", "body")).await;

        assert_eq!((reply.status, reply.text()), (StatusCode::OK, "body"), "{name}");
        let counts: Vec<_> = app
            .seen()
            .iter()
            .map(|seen| seen.header("x-envoy-attempt-count").unwrap().to_owned())
            .collect();
        assert_eq!(counts, ["1", "2", "3"], "{name}");
        let ids: Vec<_> = app
            .seen()
            .iter()
            .map(|seen| seen.header("x-request-id").unwrap().to_owned())
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "one request: {ids:?}");
    }
    assert_eq!(lab.a.sum("mesh_retries_total", &[("outcome", "begun")]), 4);
    assert_eq!(lab.a.sum("mesh_retries_total", &[("outcome", "succeeded")]), 2);
    assert_eq!(lab.b.sum("mesh_retries_total", &[("outcome", "begun")]), 0);
}

#[tokio::test]
async fn the_last_answer_is_the_clients_when_all_attempts_are_used_up() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let before = lab.a.log().len();
        let app = fails(&lab, pod, 99, UNAVAILABLE).await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        retrying(&lab, name, &again(2, "503"));

        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;

        assert_eq!((reply.status, app.seen().len()), (UNAVAILABLE, 3), "{name}");
        let of_source = |lines: Vec<serde_json::Value>| {
            let mut lines = lines.into_iter().skip(before);
            lines.find(|line| line["reporter"] == "source")
        };
        eventually("a line of the source", || of_source(lab.a.log()).is_some()).await;
        let line = of_source(lab.a.log()).unwrap();
        assert_eq!(line["response_flags"], "URX", "{name}");
        assert_eq!(line["response_code_details"], "retry_limit_exceeded", "{name}");
    }
    // The client made two requests; each destination had three.
    assert_eq!(lab.a.sum("istio_requests_total", &[("reporter", "source")]), 2);
    for agent in [&lab.a, &lab.b] {
        let at_destination = [("reporter", "destination"), ("response_code", "503")];
        eventually("records", || {
            agent.sum("istio_requests_total", &at_destination) == 3
        })
        .await;
    }
}

#[tokio::test]
async fn without_a_policy_or_a_reason_there_is_one_attempt() {
    let lab = Lab::start().await;
    let app = fails(&lab, CART, 99, UNAVAILABLE).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(get("/")).await.status, UNAVAILABLE);
    assert_eq!(app.seen().len(), 1);
    retrying(&lab, "cart", &again(3, "connect-failure,500"));
    let mut lying = get("/");
    lying
        .headers_mut()
        .insert("x-envoy-attempt-count", HeaderValue::from_static("7"));
    assert_eq!(client.fetch(lying).await.status, UNAVAILABLE);
    assert_eq!(app.seen().len(), 2);
    assert_eq!(app.seen()[1].header("x-envoy-attempt-count"), Some("1"));
}

/// Nobody listens there.
async fn gone(pod: LabPod) -> std::net::SocketAddr {
    let listener = TcpListener::bind((pod.ip, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_connect_failure_is_one_on_either_node() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::says(&lab, pod, "hello").await;
        let vip = lab
            .service(name, AppProtocol::Http, &[gone(pod).await, app.addr])
            .await;
        let mut client = H1::dial(&lab, WEB, vip).await;
        retrying(&lab, name, &again(1, "connect-failure"));
        for turn in 0..6 {
            let reply = client.fetch(get("/")).await;
            assert_eq!(
                (reply.status, reply.text()),
                (StatusCode::OK, "hello"),
                "{name} {turn}"
            );
            assert!(!reply.headers.contains_key("x-mesh-agent-unserved"));
        }
        assert_eq!(app.seen().len(), 6);
    }
}

#[tokio::test]
async fn what_only_agents_may_say_is_not_believed_of_an_application() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let app = App::http(&lab, pod, |_| async {
            let mut response = Response::new(full("served"));
            let lie = HeaderValue::from_static("connect");
            response.headers_mut().insert("x-mesh-agent-unserved", lie);
            response
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http, &[app.addr]).await;
        retrying(&lab, name, &again(3, "connect-failure"));
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        assert_eq!((reply.text(), app.seen().len()), ("served", 1), "{name}");
        assert!(!reply.headers.contains_key("x-mesh-agent-unserved"), "{name}");
    }
}

/// Resets the first request, and answers the next ones.
async fn resetting(mut stream: TcpStream, asked: Arc<AtomicUsize>) {
    if !heard(&mut stream).await {
        return;
    }
    if asked.fetch_add(1, Ordering::Relaxed) == 0 {
        return stream.set_zero_linger().unwrap();
    }
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
}

#[tokio::test]
async fn a_reset_is_a_reason_on_either_node() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let addr = speaks(&lab, pod, move |stream| resetting(stream, Arc::clone(&counted))).await;
        let vip = lab.service(name, AppProtocol::Http, &[addr]).await;
        retrying(&lab, name, &again(1, "reset"));
        let reply = H1::dial(&lab, WEB, vip).await.fetch(post("/", "x")).await;
        assert_eq!((reply.text(), asked.load(Ordering::Relaxed)), ("ok", 2), "{name}");
    }
}

#[tokio::test]
async fn another_endpoint_is_asked_before_one_is_asked_twice_unless_the_policy_does_not_care() {
    let lab = Lab::start().await;
    let apps = [
        fails(&lab, CART, 99, UNAVAILABLE).await,
        fails(&lab, CART, 99, UNAVAILABLE).await,
        fails(&lab, CART, 99, UNAVAILABLE).await,
    ];
    let addrs: Vec<_> = apps.iter().map(|app| app.addr).collect();
    let vip = lab.service("cart", AppProtocol::Http, &addrs).await;
    // Whatever this client asks would go to one and the same.
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", hashing(HashKey::SourceIp))]);
    let mut client = H1::dial(&lab, WEB, vip).await;
    let asked = |before: [usize; 3]| {
        let now = [0, 1, 2].map(|at| apps[at].seen().len() - before[at]);
        (now, [0, 1, 2].map(|at| before[at] + now[at]))
    };
    retrying(&lab, "cart", &again(2, "503"));
    client.fetch(get("/")).await;
    let (each, before) = asked([0; 3]);
    assert_eq!(each, [1, 1, 1]);
    // When all were asked, any will do.
    retrying(&lab, "cart", &again(3, "503"));
    client.fetch(get("/")).await;
    let (each, before) = asked(before);
    assert_eq!(each.iter().sum::<usize>(), 4, "{each:?}");
    assert!(each.iter().all(|count| *count > 0), "{each:?}");
    let careless = RetryPolicy {
        avoids_previous: false,
        ..again(2, "503")
    };
    retrying(&lab, "cart", &careless);
    client.fetch(get("/")).await;
    let (mut each, _) = asked(before);
    each.sort_unstable();
    assert_eq!(each, [0, 0, 3]);
}

fn in_its_own_zone(name: &str) -> Node {
    let mut node = node(name, [192, 0, 2, 1].into());
    node.locality.zone = Some(name.into());
    node
}

#[tokio::test]
async fn a_further_try_leaves_the_zone_of_the_first_where_the_policy_says_so() {
    let lab = Lab::start().await;
    let near = [
        fails(&lab, CART, 99, UNAVAILABLE).await,
        fails(&lab, CART, 99, UNAVAILABLE).await,
    ];
    let far = App::says(&lab, PAY, "far").await;
    let addrs = [near[0].addr, near[1].addr, far.addr];
    let vip = lab.service("cart", AppProtocol::Http, &addrs).await;
    let near_first = WrittenPolicy {
        load_balancer: Some(WrittenBalancer {
            kind: None,
            locality: Some(LocalityPolicy::Failover(Vec::new())),
            warmup: None,
        }),
        ..WrittenPolicy::default()
    };
    lab.change(|facts| {
        facts.nodes = ["node-a", "node-b"].map(in_its_own_zone).into();
        facts.destination_rules = vec![destination_rule("cart", near_first.clone())];
    });
    let mut client = H1::dial(&lab, WEB, vip).await;
    for (leaves_localities, attempts, status) in [
        (false, 1, UNAVAILABLE),
        (true, 1, StatusCode::OK),
        (true, 2, StatusCode::OK),
    ] {
        let policy = RetryPolicy {
            leaves_localities,
            ..again(attempts, "503")
        };
        retrying(&lab, "cart", &policy);
        let reply = client.fetch(get("/")).await;
        assert_eq!(reply.status, status, "{leaves_localities}, {attempts}");
    }
}

#[tokio::test]
async fn a_body_up_to_64_kib_is_sent_again_and_a_larger_one_is_not() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        for (len, attempts) in [(0, 2), (60_000, 2), (64 * 1024 + 1, 1), (1 << 20, 1)] {
            let app = fails(&lab, pod, 1, UNAVAILABLE).await;
            let name = format!("{name}-{len}");
            let vip = lab.service(&name, AppProtocol::Http, &[app.addr]).await;
            retrying(&lab, &name, &again(1, "503"));
            let body: Bytes = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let reply = H1::dial(&lab, WEB, vip)
                .await
                .fetch(post("/", body.clone()))
                .await;
            assert_eq!(app.seen().len(), attempts, "{name}");
            if attempts == 2 {
                assert_eq!((reply.status, reply.body), (StatusCode::OK, body), "{name}");
            } else {
                assert_eq!(reply.status, UNAVAILABLE, "{name}");
            }
        }
    }
}

/// The body and its trailer, but for the first request, which fails before a byte of it is read.
async fn returned(request: Request<Incoming>, is_first: bool) -> Response<Body> {
    if is_first {
        let mut response = Response::new(full(""));
        *response.status_mut() = UNAVAILABLE;
        return response;
    }
    let body = request.into_body().collect().await.unwrap();
    let end = body.trailers().unwrap()["x-end"].clone();
    let mut response = Response::new(full(body.to_bytes()));
    response.headers_mut().insert("x-end", end);
    response
}

#[tokio::test]
async fn a_streamed_body_with_trailers_arrives_whole_at_the_second_attempt() {
    let lab = Lab::start().await;
    for (pod, name) in [(CART, "cart"), (PAY, "pay")] {
        let asked = Arc::new(AtomicUsize::new(0));
        let app = App::http(&lab, pod, move |request| {
            let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            returned(request, is_first)
        })
        .await;
        let vip = lab.service(name, AppProtocol::Http2, &[app.addr]).await;
        retrying(&lab, name, &again(1, "503"));
        let (frames, body) = streamed();
        let request = Request::post(format!("http://{HOST}/")).body(body).unwrap();
        let mut client = H2::dial(&lab, WEB, vip).await;
        let send = client.send(request);
        let feed = async {
            for part in ["one ", "two ", "three"] {
                frames
                    .send(Frame::data(Bytes::from_static(part.as_bytes())))
                    .unwrap();
                tokio::task::yield_now().await;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-end", HeaderValue::from_static("1"));
            frames.send(Frame::trailers(trailers)).unwrap();
            drop(frames);
        };
        let (response, ()) = tokio::join!(send, feed);
        let reply = Reply::of(response.unwrap()).await;
        assert_eq!(
            (reply.text(), &reply.headers["x-end"]),
            ("one two three", &HeaderValue::from_static("1"))
        );
    }
}

#[tokio::test]
async fn a_client_that_breaks_its_body_off_is_not_repeated() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |request| async move {
        // An error is what is expected.
        let _broken = request.into_body().collect().await;
        let mut response = Response::new(full(""));
        *response.status_mut() = UNAVAILABLE;
        response
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http2, &[app.addr]).await;
    retrying(&lab, "cart", &again(5, "5xx,reset"));
    let broken = http_body_util::StreamBody::new(futures_util::stream::iter(vec![
        Ok(Frame::data(Bytes::from_static(b"begin"))),
        Err("gone".into()),
    ]));
    let request = Request::post(format!("http://{HOST}/"))
        .body(broken.boxed_unsync())
        .unwrap();
    let mut client = H2::dial(&lab, WEB, vip).await;
    assert!(client.send(request).await.is_err());
    eventually("the request is over", || lab.a.load() == 0).await;
    assert!(app.seen().len() <= 1, "{:?}", app.seen());
}
