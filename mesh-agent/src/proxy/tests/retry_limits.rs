//! How often, how long and how many at once requests are tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, StatusCode};

use super::app::{App, full};
use super::client::{H1, H2, call, get};
use super::facts::{CART, WEB, destination_rule, meta, name, route, rule};
use super::lab::{Lab, eventually};
use super::retries::{again, fails, retrying};
use crate::mesh::route::HttpRule;
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::{BackendTrafficPolicy, Limits, RetryConstraint, WrittenPolicy};

const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// A fifth of the requests, and no floor that counts.
fn budget(lab: &Lab, service: &str) {
    let policy = BackendTrafficPolicy {
        meta: meta("XBackendTrafficPolicy shop/budget".to_owned()),
        targets: vec![("spec.targetRefs[0].name".into(), name(service))],
        retries: Some(RetryConstraint {
            min_count: 1,
            min_interval: Duration::from_hours(1),
            interval: Duration::from_hours(1),
            ..RetryConstraint::default()
        }),
        session: None,
    };
    lab.change(|facts| facts.backend_policies = vec![policy.clone()]);
}

#[tokio::test]
async fn under_a_total_outage_the_destination_gets_a_fifth_more_requests() {
    let lab = Lab::start().await;
    let app = fails(&lab, CART, usize::MAX, StatusCode::BAD_GATEWAY).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    retrying(&lab, "cart", &again(3, "5xx"));
    budget(&lab, "cart");
    let mut client = H1::dial(&lab, WEB, vip).await;
    let mut statuses = Vec::new();
    for _ in 0..200 {
        statuses.push(client.fetch(get("/")).await.status);
    }
    // And the one of the floor.
    let asked = app.seen().len();
    assert!((200 + 39..=200 + 41).contains(&asked), "{asked}");
    // Gateway API: whoever is granted no more attempts is told 503, whatever the last one said.
    assert!(statuses.contains(&UNAVAILABLE), "{statuses:?}");
    let log = lab.a.logged(1).await;
    let told = log
        .iter()
        .find(|line| line["response_code"] == 503 && line["reporter"] == "source")
        .unwrap();
    assert_eq!(told["response_flags"], "URX", "{told}");
    assert_eq!(told["response_code_details"], "retry_budget_exceeded");
    assert!(lab.a.sum("mesh_retries_total", &[("outcome", "over_budget")]) > 100);
}

#[tokio::test]
async fn the_budget_survives_a_new_snapshot_and_is_shared_by_routes() {
    let lab = Lab::start().await;
    let app = fails(&lab, CART, usize::MAX, UNAVAILABLE).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    budget(&lab, "cart");
    let mut client = H1::dial(&lab, WEB, vip).await;
    for turn in 0..10 {
        // Another rule each time.
        retrying(&lab, "cart", &again(1 + turn % 3, "503"));
        client.fetch(get("/")).await;
    }
    // The floor's, and a fifth of ten.
    assert_eq!(app.seen().len(), 10 + 1 + 2);
}

#[tokio::test]
async fn as_many_are_tried_again_at_once_as_the_traffic_policy_allows() {
    let lab = Lab::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (held, release) = tokio::sync::watch::channel(false);
    let counted = Arc::clone(&asked);
    // The first attempt of a request fails, the second one waits.
    let app = App::http(&lab, CART, move |request| {
        let is_first = request.headers()["x-envoy-attempt-count"] == "1";
        let (counted, mut release) = (Arc::clone(&counted), release.clone());
        async move {
            let mut response = Response::new(full(""));
            if is_first {
                *response.status_mut() = UNAVAILABLE;
            } else {
                counted.fetch_add(1, Ordering::Relaxed);
                let _released = release.wait_for(|is_over| *is_over).await;
            }
            response
        }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    retrying(&lab, "cart", &again(1, "503"));
    let one = WrittenPolicy {
        limits: Some(Limits {
            retries: Some(1),
            ..Limits::default()
        }),
        ..WrittenPolicy::default()
    };
    lab.change(|facts| facts.destination_rules = vec![destination_rule("cart", one.clone())]);

    let mut first = H1::dial(&lab, WEB, vip).await;
    let waiting = async { first.fetch(get("/")).await.status };
    let other = async {
        eventually("the first is tried again", || asked.load(Ordering::Relaxed) == 1).await;
        let status = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await.status;
        held.send_replace(true);
        status
    };
    assert_eq!(tokio::join!(waiting, other), (StatusCode::OK, UNAVAILABLE));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let log = lab.a.logged(1).await;
    assert!(
        log.iter()
            .any(|line| line["response_flags"] == "UO" && line["response_code_details"] == "retry_overflow"),
        "{log:?}"
    );
    // What is over makes room.
    assert_eq!(H1::dial(&lab, WEB, vip).await.fetch(get("/")).await.status, 200);
}

/// Requests for `cart` have these limits.
fn limited(lab: &Lab, attempts: u32, request: Option<Duration>, attempt: Option<Duration>) {
    let limited = HttpRule {
        retry: Some(again(attempts, "5xx")),
        attempt_timeout: attempt,
        ..rule("/", &[("cart", 1)], request)
    };
    lab.change(|facts| facts.http_routes = vec![route("cart", vec![limited.clone()])]);
}

#[tokio::test]
async fn retries_and_timeouts_let_another_attempt_follow_one_that_takes_too_long() {
    let lab = Lab::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let app = App::http(&lab, CART, move |_| {
        let is_first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            Response::new(full("at last"))
        }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    limited(&lab, 1, None, Some(Duration::from_millis(200)));
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!((reply.text(), asked.load(Ordering::Relaxed)), ("at last", 2));
    eventually("load is given back", || lab.a.load() == 0).await;
}

#[tokio::test]
async fn the_routes_time_is_over_for_all_attempts_together() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |_| std::future::pending()).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let whole = Duration::from_millis(700);
    limited(&lab, 99, Some(whole), Some(Duration::from_millis(200)));
    let began = Instant::now();
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 504);
    assert!(began.elapsed() >= whole);
    let attempts = app.seen().len();
    assert!((1..=4).contains(&attempts), "{attempts}");
    let log = lab.a.logged(1).await;
    let line = log.iter().find(|line| line["reporter"] == "source").unwrap();
    assert_eq!(line["response_flags"], "UT", "{line}");
}

#[tokio::test]
async fn a_pause_that_would_pass_the_end_is_not_begun() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |_| async {
        let mut response = Response::new(full("later"));
        *response.status_mut() = UNAVAILABLE;
        let pause = HeaderValue::from_static("200");
        response.headers_mut().insert("retry-after", pause);
        response
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    limited(&lab, 5, Some(Duration::from_secs(100)), None);
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!((reply.status, reply.text()), (UNAVAILABLE, "later"));
    assert_eq!(app.seen().len(), 1);
    assert_eq!(lab.a.sum("mesh_retries_total", &[("outcome", "too_late")]), 1);
}

#[tokio::test]
async fn what_is_left_of_a_grpc_clients_patience_is_passed_on_and_bounds_the_attempts() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, |_| async {
        let mut response = Response::new(full(""));
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("retry-after", HeaderValue::from_static("1"));
        response
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Grpc, &[app.addr]).await;
    retrying(&lab, "cart", &again(9, "unavailable"));
    let patient = |patience: &'static str| {
        let mut request = call(b"\0\0\0\0\0");
        let patience = HeaderValue::from_static(patience);
        request.headers_mut().insert("grpc-timeout", patience);
        request
    };
    let mut client = H2::dial(&lab, WEB, vip).await;
    client.fetch(patient("2500m")).await;
    let left: Vec<u64> = app
        .seen()
        .iter()
        .map(|seen| {
            let text = seen.header("grpc-timeout").unwrap().to_owned();
            let (number, unit) = text.split_at(text.len() - 1);
            number.parse::<u64>().unwrap() * if unit == "m" { 1000 } else { 1 }
        })
        .collect();
    // Pauses of one to one and a half seconds.
    assert!((2..=3).contains(&left.len()), "{left:?}");
    assert!(left[1] <= left[0] - 1_000_000, "{left:?}");
}
