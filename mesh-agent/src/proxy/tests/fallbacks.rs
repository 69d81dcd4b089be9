//! Requests that their own Service does not answer: what answers instead, and when nothing does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};

use super::app::{App, full, heard, speaks};
use super::authorization;
use super::client::{H1, H2, Reply, call, get, post};
use super::explain::Shop;
use super::facts::{CART, LabPod, PAY, WEB, destination_rule, name, route, rule};
use super::lab::{Lab, eventually};
use super::limits;
use super::retries::{again, fails, retrying};
use crate::mesh::fallback::{Fallback, FallbackOn, FallbackTo, StaticAnswer};
use crate::mesh::hedge::Hedge;
use crate::mesh::policy::authorization::{PolicyAction, PolicyRule};
use crate::mesh::route::HttpRule;
use crate::mesh::service::AppProtocol;
use crate::mesh::traffic::{Limits, WrittenPolicy};
use crate::proxy::explain::report::Outcome;
use crate::transport::http::Body;

const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const BOTH: [FallbackOn; 2] = [FallbackOn::Unreachable, FallbackOn::GatewayError];
const DEFAULT: [FallbackOn; 1] = [FallbackOn::Unreachable];

fn sorry() -> FallbackTo {
    FallbackTo::Answer(Arc::new(StaticAnswer {
        status: StatusCode::OK,
        content_type: HeaderValue::from_static("application/json"),
        body: Bytes::from_static(b"\"sorry\""),
        grpc_status: None,
    }))
}

fn spare() -> FallbackTo {
    FallbackTo::Service {
        service: name("spare"),
        port: super::facts::PORT,
    }
}

/// Gives `service` a fallback.
fn falling_back(lab: &Lab, service: &str, on: &[FallbackOn], to: &FallbackTo) {
    lab.change(|facts| {
        let known = facts.services.iter_mut().find(|one| one.name == name(service));
        known.unwrap().resilience.fallback = Some(Fallback {
            on: on.to_vec(),
            to: to.clone(),
        });
    });
}

async fn ask(lab: &Lab, vip: SocketAddr, request: Request<Body>) -> Reply {
    H1::dial(lab, WEB, vip).await.fetch(request).await
}

/// Nobody listens there.
async fn gone(pod: LabPod) -> SocketAddr {
    let listener = TcpListener::bind((pod.ip, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

async fn resets(mut stream: TcpStream) {
    if heard(&mut stream).await {
        stream.set_zero_linger().unwrap();
    }
}

/// Ways of having no answer, each of which is a Service of its own.
async fn unreachable(lab: &Lab, pod: LabPod) -> Vec<(&'static str, SocketAddr)> {
    let (closed, resetting) = (gone(pod).await, speaks(lab, pod, resets).await);
    let hangs = App::http(lab, pod, |_| std::future::pending()).await;
    let full = App::says(lab, pod, "there").await;
    let vips = vec![
        ("empty", lab.service("empty", AppProtocol::Http, &[]).await),
        (
            "closed",
            lab.service("closed", AppProtocol::Http, &[closed]).await,
        ),
        (
            "resetting",
            lab.service("resetting", AppProtocol::Http, &[resetting]).await,
        ),
        (
            "slow",
            lab.service("slow", AppProtocol::Http, &[hangs.addr]).await,
        ),
        ("full", lab.service("full", AppProtocol::Http, &[full.addr]).await),
    ];
    let nothing = WrittenPolicy {
        limits: Some(Limits {
            requests: Some(0),
            ..Limits::default()
        }),
        ..WrittenPolicy::default()
    };
    let hurried = HttpRule {
        attempt_timeout: Some(Duration::from_millis(100)),
        ..rule("/", &[("slow", 1)], None)
    };
    lab.change(|facts| {
        facts.http_routes = vec![route("slow", vec![hurried.clone()])];
        facts.destination_rules = vec![destination_rule("full", nothing.clone())];
    });
    vips
}

#[tokio::test]
async fn what_cannot_be_reached_is_answered_by_the_agent_where_its_service_says_so() {
    for pod in [CART, PAY] {
        let lab = Lab::start().await;
        for (service, vip) in unreachable(&lab, pod).await {
            let before = ask(&lab, vip, get("/")).await;
            assert!(before.status.is_server_error(), "{service}: {before:?}");
            falling_back(&lab, service, &DEFAULT, &sorry());
            let reply = ask(&lab, vip, get("/")).await;
            assert_eq!(
                (reply.status, reply.text()),
                (StatusCode::OK, "\"sorry\""),
                "{service}"
            );
            assert_eq!(reply.headers["content-type"], "application/json", "{service}");
            let head = Request::head("/").header("host", super::client::HOST);
            let reply = ask(&lab, vip, head.body(full("")).unwrap()).await;
            assert_eq!((reply.status, reply.text()), (StatusCode::OK, ""), "{service}");
        }
        let answered = [("outcome", "answered")];
        assert_eq!(lab.a.sum("mesh_fallbacks_total", &answered), 10);
        eventually("load is given back", || lab.a.load() == 0).await;
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_answered_by_another_service_where_its_service_says_so() {
    for (pod, spare_pod) in [(CART, PAY), (PAY, CART)] {
        let lab = Lab::start().await;
        let stands_in = App::echo(&lab, spare_pod).await;
        lab.service("spare", AppProtocol::Http, &[stands_in.addr]).await;
        for (service, vip) in unreachable(&lab, pod).await {
            falling_back(&lab, service, &DEFAULT, &spare());
            let reply = ask(&lab, vip, post("/order", service)).await;
            assert_eq!(
                (reply.status, reply.text()),
                (StatusCode::OK, service),
                "{service}"
            );
        }
        assert_eq!(stands_in.seen().len(), 5);
        assert_eq!(lab.a.sum("mesh_fallbacks_total", &[("outcome", "served")]), 5);
        // The client made five requests, and the one that answered is told of.
        let by_spare = [
            ("reporter", "source"),
            ("destination_workload", spare_pod.name),
            ("response_code", "200"),
        ];
        eventually("records", || lab.a.sum("istio_requests_total", &by_spare) == 5).await;
        assert_eq!(lab.a.sum("istio_requests_total", &[("reporter", "source")]), 5);
    }
}

#[tokio::test]
async fn the_access_log_says_that_a_fallback_answered_and_why() {
    let lab = Lab::start().await;
    let vip = lab.service("empty", AppProtocol::Http, &[]).await;
    falling_back(&lab, "empty", &DEFAULT, &sorry());
    ask(&lab, vip, get("/")).await;
    let log = lab.a.logged(1).await;
    let line = log.iter().find(|line| line["reporter"] == "source").unwrap();
    assert_eq!(
        (&line["response_code"], &line["response_flags"]),
        (&200.into(), &"UH".into()),
        "{line}"
    );
    assert_eq!(line["response_code_details"], "fallback{no_healthy_upstream}");
}

#[tokio::test]
async fn answers_of_the_application_are_its_own_unless_gateway_errors_are_not() {
    for pod in [CART, PAY] {
        let lab = Lab::start().await;
        for (status, has_fallback) in [(500, false), (502, true), (503, true), (504, true), (404, false)] {
            let status = StatusCode::from_u16(status).unwrap();
            let service = format!("says-{status}").replace(' ', "-").to_lowercase();
            let app = fails(&lab, pod, usize::MAX, status).await;
            let vip = lab.service(&service, AppProtocol::Http, &[app.addr]).await;
            falling_back(&lab, &service, &DEFAULT, &sorry());
            assert_eq!(ask(&lab, vip, get("/")).await.status, status);
            falling_back(&lab, &service, &BOTH, &sorry());
            let expected = if has_fallback { StatusCode::OK } else { status };
            assert_eq!(ask(&lab, vip, get("/")).await.status, expected, "{status}");
        }
    }
}

#[tokio::test]
async fn a_fallback_comes_after_the_last_attempt() {
    let lab = Lab::start().await;
    for (pod, service) in [(CART, "cart"), (PAY, "pay")] {
        let app = fails(&lab, pod, usize::MAX, UNAVAILABLE).await;
        let vip = lab.service(service, AppProtocol::Http, &[app.addr]).await;
        retrying(&lab, service, &again(2, "503"));
        falling_back(&lab, service, &BOTH, &sorry());
        assert_eq!(ask(&lab, vip, get("/")).await.status, StatusCode::OK);
        assert_eq!(app.seen().len(), 3, "{service}");
    }
}

#[tokio::test]
async fn what_a_policy_a_limit_or_a_route_refuses_has_no_fallback() {
    for (pod, service) in [(CART, "cart"), (PAY, "pay")] {
        let lab = Lab::start().await;
        let app = App::says(&lab, pod, "there").await;
        let vip = lab.service(service, AppProtocol::Http, &[app.addr]).await;
        falling_back(&lab, service, &BOTH, &sorry());
        let deny = authorization::policy(PolicyAction::Deny, vec![PolicyRule::default()]);
        lab.change(authorization::set(vec![deny]));
        assert_eq!(
            ask(&lab, vip, get("/")).await.status,
            StatusCode::FORBIDDEN,
            "{service}"
        );
        lab.change(authorization::set(Vec::new()));
        let once = limits::policy(vec![limits::hourly(1, Vec::new())]);
        lab.change(limits::set(once));
        let statuses = [ask(&lab, vip, get("/")).await, ask(&lab, vip, get("/")).await].map(|one| one.status);
        assert_eq!(
            statuses,
            [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS],
            "{service}"
        );
        lab.change(|facts| {
            facts.http_routes = vec![route(service, vec![rule("/only", &[(service, 1)], None)])];
        });
        assert_eq!(
            ask(&lab, vip, get("/")).await.status,
            StatusCode::NOT_FOUND,
            "{service}"
        );
        lab.change(|facts| facts.http_routes = vec![route(service, vec![rule("/", &[("absent", 1)], None)])]);
        let status = ask(&lab, vip, get("/")).await.status;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{service}");
        assert_eq!(lab.a.sum("mesh_fallbacks_total", &[]), 0);
    }
}

#[tokio::test]
async fn the_policies_of_the_service_that_stands_in_hold() {
    for pod in [CART, PAY] {
        let lab = Lab::start().await;
        let stands_in = App::says(&lab, pod, "spare").await;
        lab.service("spare", AppProtocol::Http, &[stands_in.addr]).await;
        let vip = lab.service("empty", AppProtocol::Http, &[]).await;
        falling_back(&lab, "empty", &DEFAULT, &spare());
        let deny = authorization::policy(PolicyAction::Deny, vec![PolicyRule::default()]);
        lab.change(authorization::set(vec![deny]));
        assert_eq!(ask(&lab, vip, get("/")).await.status, StatusCode::FORBIDDEN);
        assert_eq!(stands_in.seen().len(), 0);
    }
}

/// Reads a whole body and fails.
async fn reads_and_fails(request: Request<hyper::body::Incoming>) -> Response<Body> {
    use http_body_util::BodyExt;
    let _read = request.into_body().collect().await;
    let mut response = Response::new(full(""));
    *response.status_mut() = UNAVAILABLE;
    response
}

#[tokio::test]
async fn a_body_that_is_gone_can_be_answered_but_not_sent_on() {
    let lab = Lab::start().await;
    let app = App::http(&lab, CART, reads_and_fails).await;
    let stands_in = App::says(&lab, CART, "spare").await;
    lab.service("spare", AppProtocol::Http, &[stands_in.addr]).await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    for (len, by_spare) in [(60_000, StatusCode::OK), (1 << 20, UNAVAILABLE)] {
        falling_back(&lab, "cart", &BOTH, &spare());
        let reply = ask(&lab, vip, post("/", vec![b'x'; len])).await;
        assert_eq!(reply.status, by_spare, "{len}");
        falling_back(&lab, "cart", &BOTH, &sorry());
        let reply = ask(&lab, vip, post("/", vec![b'x'; len])).await;
        assert_eq!(reply.status, StatusCode::OK, "{len}");
    }
    assert_eq!(lab.a.sum("mesh_fallbacks_total", &[("outcome", "body_gone")]), 1);
}

#[tokio::test]
async fn one_service_stands_in_and_no_further_one() {
    let lab = Lab::start().await;
    let last = App::says(&lab, CART, "last").await;
    lab.service("last", AppProtocol::Http, &[last.addr]).await;
    lab.service("spare", AppProtocol::Http, &[]).await;
    let vip = lab.service("empty", AppProtocol::Http, &[]).await;
    falling_back(&lab, "empty", &DEFAULT, &spare());
    let to_last = FallbackTo::Service {
        service: name("last"),
        port: super::facts::PORT,
    };
    falling_back(&lab, "spare", &DEFAULT, &to_last);
    assert_eq!(ask(&lab, vip, get("/")).await.status, UNAVAILABLE);
    assert_eq!(last.seen().len(), 0);
    // Two that stand in for each other go round once.
    let back = FallbackTo::Service {
        service: name("empty"),
        port: super::facts::PORT,
    };
    falling_back(&lab, "spare", &DEFAULT, &back);
    assert_eq!(ask(&lab, vip, get("/")).await.status, UNAVAILABLE);
    assert_eq!(lab.a.sum("mesh_fallbacks_total", &[("outcome", "failed")]), 2);
    lab.change(|facts| facts.services.retain(|one| one.name != name("spare")));
    assert_eq!(ask(&lab, vip, get("/")).await.status, UNAVAILABLE);
    assert_eq!(lab.a.sum("mesh_fallbacks_total", &[("outcome", "absent")]), 1);
}

#[tokio::test]
async fn a_grpc_call_is_told_a_status_of_its_own_or_the_failure() {
    let lab = Lab::start().await;
    let vip = lab.service("empty", AppProtocol::Grpc, &[]).await;
    for (told, expected) in [(None, "14"), (Some(8), "8")] {
        let answer = FallbackTo::Answer(Arc::new(StaticAnswer {
            status: StatusCode::OK,
            content_type: HeaderValue::from_static("text/plain"),
            body: Bytes::from_static(b"sorry"),
            grpc_status: told,
        }));
        falling_back(&lab, "empty", &DEFAULT, &answer);
        let reply = H2::dial(&lab, WEB, vip).await.fetch(call(b"\0\0\0\0\x01x")).await;
        assert_eq!(reply.headers["grpc-status"], expected);
        assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
        assert_eq!(reply.headers["content-type"], "application/grpc");
    }
}

#[tokio::test]
async fn an_explanation_foretells_who_answers() {
    let lab = Lab::start().await;
    let shop = Shop::open(&lab, "cart").await;
    let explained = || shop.explained(&lab, "/");
    assert_eq!(
        (&explained().ways[0].hedge, &explained().ways[0].fallback),
        (&None, &None)
    );
    falling_back(&lab, "cart", &DEFAULT, &spare());
    lab.change(|facts| facts.services[0].resilience.hedge = Some(Hedge::default()));
    let explanation = explained();
    assert_eq!(explanation.verdict.outcome, Outcome::Sent);
    assert_eq!(
        explanation.ways[0].fallback.as_deref(),
        Some("Service shop/spare:80 answers when no endpoint answers")
    );
    assert_eq!(
        explanation.ways[0].hedge.as_deref(),
        Some("not yet: 0 of 100 answers of late are known")
    );
    let of_post = shop.explained(&lab, "POST /");
    assert_eq!(
        of_post.ways[0].hedge.as_deref(),
        Some("no: such a request is never sent twice")
    );
    lab.change(|facts| facts.endpoints.clear());
    // Nobody knows the Service that would stand in.
    assert_eq!(explained().verdict.status, Some(503));
    assert_eq!(shop.sent(&lab, "/").await, (503, 0));
    falling_back(&lab, "cart", &DEFAULT, &sorry());
    let told = explained().verdict;
    assert_eq!((told.outcome, told.status), (Outcome::Answered, Some(200)));
    assert_eq!(told.details.as_deref(), Some("fallback{no_healthy_upstream}"));
    assert_eq!(shop.sent(&lab, "/").await, (200, 0));
}
