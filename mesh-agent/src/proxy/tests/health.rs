//! Active health checks: by which way endpoints are asked, and what becomes of the traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

use super::app::{App, full, grpc, heard, speaks};
use super::authorization::{policy, set, to};
use super::client::{H1, get};
use super::facts::{CART, LEGACY, LabPod, PAY, WEB};
use super::lab::{Lab, eventually};
use crate::lifecycle::PATIENCE;
use crate::mesh::health_check::{HealthCheck, HttpQuestion, Question};
use crate::mesh::policy::authorization::{PolicyAction, TextAttribute};
use crate::mesh::service::AppProtocol;
use crate::proxy::check_health;

fn quick(question: Question) -> HealthCheck {
    HealthCheck {
        interval: Duration::from_millis(10),
        timeout: PATIENCE,
        panic_percent: 0,
        ..HealthCheck::new(question)
    }
}

fn http(path: &str) -> Question {
    Question::Http(HttpQuestion {
        path: path.into(),
        host: None,
        expected: vec![200..=200],
        retriable: vec![503..=503],
    })
}

/// Has the endpoints of `service` asked.
fn check(lab: &Lab, service: &str, check: HealthCheck) {
    let check = Arc::new(check);
    lab.change(|facts| {
        for declared in &mut facts.services {
            if *declared.name.name == *service {
                declared.traffic.health_check = Some(Arc::clone(&check));
            }
        }
    });
}

fn begin(lab: &Lab) {
    for agent in [&lab.a, &lab.b] {
        let checking = check_health(Arc::clone(&agent.mesh), agent.tasks.stop());
        agent.tasks.spawn("health", checking);
    }
}

fn unhealthy(lab: &Lab) -> usize {
    lab.a.mesh.snapshots.load().unhealthy().len()
}

async fn until_unhealthy(lab: &Lab, count: usize) {
    eventually("unhealthy endpoints", || unhealthy(lab) == count).await;
}

fn checks(lab: &Lab, result: &str) -> u64 {
    lab.a.sum("mesh_health_checks_total", &[("result", result)])
}

/// An application that answers `/healthz` with a status that the test sets, and all else with its name.
async fn moody(lab: &Lab, pod: LabPod, name: &'static str) -> (App, Arc<Mutex<StatusCode>>) {
    let mood = Arc::new(Mutex::new(StatusCode::OK));
    let own = Arc::clone(&mood);
    let app = App::http(lab, pod, move |request| {
        let mut response = Response::new(full(name));
        if request.uri().path() == "/healthz" {
            *response.status_mut() = *own.lock();
        }
        async move { response }
    })
    .await;
    (app, mood)
}

fn asked(app: &App) -> usize {
    let seen = app.seen();
    seen.iter()
        .filter(|seen| seen.head.uri.path() == "/healthz")
        .count()
}

#[tokio::test]
async fn traffic_leaves_an_endpoint_that_says_no_and_comes_back_when_it_says_yes() {
    for pod in [CART, PAY, LEGACY] {
        let lab = Lab::start().await;
        let (bad, mood) = moody(&lab, pod, "bad").await;
        let (good, _) = moody(&lab, pod, "good").await;
        let vip = lab
            .service("cart", AppProtocol::Http, &[bad.addr, good.addr])
            .await;
        check(&lab, "cart", quick(http("/healthz")));
        begin(&lab);
        let mut client = H1::dial(&lab, WEB, vip).await;
        client.fetch(get("/")).await;
        eventually("checks", || asked(&bad) > 2 && asked(&good) > 2).await;
        assert_eq!(unhealthy(&lab), 0);

        *mood.lock() = StatusCode::NOT_FOUND;
        until_unhealthy(&lab, 1).await;
        for _ in 0..20 {
            assert_eq!(client.fetch(get("/")).await.text(), "good", "{}", pod.name);
        }
        *mood.lock() = StatusCode::OK;
        until_unhealthy(&lab, 0).await;
        let replies = [client.fetch(get("/")).await, client.fetch(get("/")).await];
        assert!(replies.iter().any(|reply| reply.text() == "bad"), "{}", pod.name);
        let seen = bad.seen();
        let question = seen
            .iter()
            .find(|seen| seen.head.uri.path() == "/healthz")
            .unwrap();
        assert_eq!(question.header("host"), Some("cart.shop.svc.cluster.local"));
        assert_eq!(question.header("user-agent"), Some("mesh-agent-health-check"));
    }
}

#[tokio::test]
async fn what_no_pod_of_the_node_uses_is_not_asked() {
    let lab = Lab::start().await;
    let (used, _) = moody(&lab, CART, "used").await;
    let (unused, _) = moody(&lab, CART, "unused").await;
    let vip = lab.service("cart", AppProtocol::Http, &[used.addr]).await;
    lab.service("idle", AppProtocol::Http, &[unused.addr]).await;
    check(&lab, "cart", quick(http("/healthz")));
    check(&lab, "idle", quick(http("/healthz")));
    begin(&lab);
    H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    eventually("checks", || asked(&used) > 20).await;
    assert_eq!(asked(&unused), 0);
    // The other node has nobody who uses it either.
    assert_eq!(lab.b.sum("mesh_health_checks_total", &[]), 0);
}

#[tokio::test]
async fn when_the_pod_that_used_a_service_leaves_what_was_known_is_forgotten() {
    let lab = Lab::start().await;
    let (app, mood) = moody(&lab, PAY, "app").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    check(&lab, "pay", quick(http("/healthz")));
    begin(&lab);
    H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    *mood.lock() = StatusCode::IM_A_TEAPOT;
    until_unhealthy(&lab, 1).await;
    lab.a.leave(WEB);
    until_unhealthy(&lab, 0).await;
}

#[tokio::test]
async fn statuses_that_are_no_better_than_silence_need_several_in_a_row() {
    let lab = Lab::start().await;
    let (app, mood) = moody(&lab, PAY, "app").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    *mood.lock() = StatusCode::SERVICE_UNAVAILABLE;
    let patient = HealthCheck {
        unhealthy_threshold: 5,
        ..quick(http("/healthz"))
    };
    check(&lab, "pay", patient);
    begin(&lab);
    H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    until_unhealthy(&lab, 1).await;
    assert!(checks(&lab, "no_answer") >= 5);
    assert_eq!(checks(&lab, "failed"), 0);
}

async fn note_check(request: Request<Incoming>, heard: Arc<Mutex<Bytes>>) {
    if request.uri().path() == "/grpc.health.v1.Health/Check" {
        *heard.lock() = request.into_body().collect().await.unwrap().to_bytes();
    }
}

#[tokio::test]
async fn only_serving_is_healthy_in_grpc() {
    const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
    const NOT_SERVING: &[u8] = b"\0\0\0\0\x02\x08\x02";
    const UNKNOWN: &[u8] = b"\0\0\0\0\0";
    for (pod, message, status, is_healthy) in [
        (CART, SERVING, 0, true),
        (PAY, SERVING, 0, true),
        (PAY, NOT_SERVING, 0, false),
        (CART, NOT_SERVING, 0, false),
        (PAY, UNKNOWN, 0, false),
        (PAY, SERVING, 5, false),
        (PAY, b"\0\0\0\0\x09\x08", 0, false),
    ] {
        let lab = Lab::start().await;
        let question = Arc::new(Mutex::new(Bytes::new()));
        let heard = Arc::clone(&question);
        let app = App::http(&lab, pod, move |request| {
            let noted = note_check(request, Arc::clone(&heard));
            async move {
                noted.await;
                grpc(message, status)
            }
        })
        .await;
        let vip = lab.service("cart", AppProtocol::Grpc, &[app.addr]).await;
        check(&lab, "cart", quick(Question::Grpc("shop.Cart".into())));
        begin(&lab);
        super::client::H2::dial(&lab, WEB, vip)
            .await
            .fetch(super::client::call(UNKNOWN))
            .await;
        let result = if is_healthy { "passed" } else { "failed" };
        eventually(result, || checks(&lab, result) > 1).await;
        assert_eq!(unhealthy(&lab), usize::from(!is_healthy), "{message:?} {status}");
        assert_eq!(&**question.lock(), b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    }
}

#[tokio::test]
async fn tcp_is_healthy_while_the_application_itself_takes_connections() {
    for pod in [CART, PAY, LEGACY] {
        let lab = Lab::start().await;
        let socket = TcpListener::bind((pod.ip, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        let vip = lab.service("cart", AppProtocol::Tcp, &[addr]).await;
        let check_tcp = HealthCheck {
            unhealthy_threshold: 2,
            ..quick(Question::Tcp)
        };
        check(&lab, "cart", check_tcp);
        begin(&lab);
        let held = lab.dial(WEB, vip).await;
        eventually("checks", || checks(&lab, "passed") > 2).await;
        assert_eq!(unhealthy(&lab), 0);
        drop(socket);
        until_unhealthy(&lab, 1).await;
        assert_eq!(checks(&lab, "failed"), 0);
        drop(held);
    }
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_asked_one_question_at_a_time_and_left_out() {
    let lab = Lab::start().await;
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, highest) = (Arc::clone(&open), Arc::clone(&most));
    let mute = speaks(&lab, CART, move |mut stream: TcpStream| {
        let (open, most) = (Arc::clone(&opened), Arc::clone(&highest));
        async move {
            if !heard(&mut stream).await {
                return;
            }
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Until the agent gives up.
            let _closed = stream.readable().await;
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let app = App::says(&lab, CART, "good").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr, mute]).await;
    let slow = HealthCheck {
        timeout: Duration::from_millis(100),
        ..quick(http("/healthz"))
    };
    check(&lab, "cart", slow);
    begin(&lab);
    // Not by a request, which the mute one might be asked.
    for upstream in lab.a.mesh.snapshots.load().upstreams() {
        upstream.used_by(WEB.ip, Instant::now());
    }
    until_unhealthy(&lab, 1).await;
    eventually("more checks", || checks(&lab, "no_answer") > 5).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    for _ in 0..10 {
        assert_eq!(
            H1::dial(&lab, WEB, vip).await.fetch(get("/")).await.text(),
            "good"
        );
    }
}

#[tokio::test]
async fn the_policies_of_the_destination_hold_for_checks_too() {
    for pod in [CART, PAY] {
        let lab = Lab::start().await;
        let (app, _) = moody(&lab, pod, "app").await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        let no_checks = policy(PolicyAction::Deny, vec![to(TextAttribute::Path, "/healthz")]);
        lab.change(set(vec![no_checks]));
        check(&lab, "cart", quick(http("/healthz")));
        begin(&lab);
        H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
        until_unhealthy(&lab, 1).await;
        assert_eq!(asked(&app), 0, "{}", pod.name);
    }
}

#[tokio::test]
async fn no_application_asks_as_agents_do() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "app").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let mut request = get("/");
    let headers = request.headers_mut();
    headers.insert("x-mesh-agent-reach", "tcp".parse().unwrap());
    assert_eq!(H1::dial(&lab, WEB, vip).await.fetch(request).await.text(), "app");
    assert_eq!(app.only_seen().header("x-mesh-agent-reach"), None);
}
