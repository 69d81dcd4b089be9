//! Faults that a route puts in on purpose, and rules that are tried as they are written.

use std::time::Duration;

use super::app::App;
use super::client::{H1, H2, call, get};
use super::facts::{CART, WEB, route, rule};
use super::lab::Lab;
use crate::mesh::route::{Abort, Audience, Fault, HttpRule, RouteKind, Share};
use crate::mesh::service::AppProtocol;

fn failing(fault: Fault) -> HttpRule {
    HttpRule {
        fault: Some(fault),
        ..rule("/", &[("cart", 1)], None)
    }
}

fn aborting(abort: Abort) -> HttpRule {
    failing(Fault {
        abort: Some((abort, Share::ALL)),
        delay: None,
    })
}

#[tokio::test]
async fn an_aborted_request_reaches_no_application() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let status = http::StatusCode::IM_A_TEAPOT;
    lab.change(move |facts| facts.http_routes = vec![route("cart", vec![aborting(Abort::Http(status))])]);

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;

    assert_eq!((reply.status, reply.text()), (status, "fault filter abort"));
    assert_eq!(app.seen().len(), 0);
    let line = lab.a.logged(1).await.remove(0);
    assert_eq!(line["response_flags"], "FI");
    assert_eq!(line["response_code_details"], "fault_filter_abort");
}

#[tokio::test]
async fn a_grpc_client_is_aborted_with_a_grpc_status() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Grpc, &[app.addr]).await;
    for (abort, status) in [
        (Abort::Grpc(8), "8"),
        (Abort::Http(http::StatusCode::SERVICE_UNAVAILABLE), "14"),
    ] {
        lab.change(move |facts| facts.http_routes = vec![route("cart", vec![aborting(abort)])]);
        let reply = H2::dial(&lab, WEB, vip).await.fetch(call(b"x")).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["grpc-status"]),
            (200, &status.parse::<http::HeaderValue>().unwrap()),
            "{abort:?}"
        );
    }
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn a_delay_is_waited_for_and_counts_against_no_limit() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let delay = Duration::from_secs(2);
    lab.change(move |facts| {
        let delayed = HttpRule {
            attempt_timeout: Some(Duration::from_millis(1500)),
            ..failing(Fault {
                delay: Some((delay, Share::ALL)),
                abort: None,
            })
        };
        facts.http_routes = vec![route("cart", vec![delayed])];
    });

    let began = std::time::Instant::now();
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;

    assert_eq!(reply.status, 200);
    // The lower bound is the promise; nothing is said of how long it takes beyond.
    assert!(began.elapsed() >= delay);
    let log = lab.a.logged(1).await;
    assert!(log.iter().any(|line| line["response_flags"] == "DI"), "{log:?}");
}

#[tokio::test]
async fn rules_of_a_virtual_service_are_tried_as_they_are_written() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    for (kind, expected) in [(RouteKind::Virtual, 200), (RouteKind::Http, 500)] {
        lab.change(move |facts| {
            // The second is the more specific one, and has no backend.
            let rules = vec![rule("/", &[("cart", 1)], None), rule("/a", &[], None)];
            let mut written = route("cart", rules);
            written.kind = kind;
            written.audience = Audience::Everybody;
            facts.http_routes = vec![written];
        });
        let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/a")).await;
        assert_eq!(reply.status.as_u16(), expected, "{kind:?}");
    }
}
