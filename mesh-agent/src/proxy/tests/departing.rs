//! Endpoints that go away: what is idle, what is under way, what comes afterwards, and what their clients are told.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::app::{App, written_by_hand};
use super::authorization::echo;
use super::client::{H1, H2, get, get2};
use super::facts::{CART, LEGACY, LabPod, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::{AppProtocol, EndpointCondition};
use crate::proxy::watch_departures;

fn begin(lab: &Lab) {
    for agent in [&lab.a, &lab.b] {
        let watching = watch_departures(Arc::clone(&agent.mesh), agent.tasks.stop());
        agent.tasks.spawn("departures", watching);
    }
}

/// The endpoints of the pod terminate, and it is being deleted.
fn terminate(lab: &Lab, service: &str, index: usize, pod: LabPod) {
    lab.change(|facts| {
        let mut of_service = facts.endpoints.iter_mut();
        let mut of_service = of_service.by_ref().filter(|one| *one.service.name == *service);
        of_service.nth(index).unwrap().condition = EndpointCondition::ServingTerminating;
        for workload in &mut facts.workloads {
            workload.is_terminating |= workload.uid == pod.workload().uid;
        }
    });
}

/// Connections that are kept for `pod`.
fn kept(lab: &Lab, pod: LabPod) -> usize {
    let served = lab.agent_of(pod).mesh.pods.find(&pod.workload().uid).unwrap();
    served.pool.len()
}

/// In whose pool connections from [`WEB`] to `pod` are.
fn pool_of(pod: LabPod) -> LabPod {
    if pod == CART { CART } else { WEB }
}

#[tokio::test]
async fn idle_connections_close_at_once_and_nothing_new_goes_there() {
    for pod in [CART, PAY, LEGACY] {
        let lab = Lab::start().await;
        let (going, staying) = (
            App::says(&lab, pod, "going").await,
            App::says(&lab, LEGACY, "staying").await,
        );
        let vip = lab
            .service("cart", AppProtocol::Http, &[going.addr, staying.addr])
            .await;
        begin(&lab);
        let mut client = H1::dial(&lab, WEB, vip).await;
        for _ in 0..4 {
            client.fetch(get("/")).await;
        }
        let idle = kept(&lab, WEB) + if pool_of(pod) == WEB { 0 } else { kept(&lab, CART) };
        assert_eq!(idle, 2, "{}", pod.name);
        terminate(&lab, "cart", 0, pod);
        let left = || kept(&lab, WEB) + if pool_of(pod) == WEB { 0 } else { kept(&lab, CART) };
        eventually("the idle connection is closed", || left() == 1).await;
        let before = going.seen().len();
        for _ in 0..10 {
            assert_eq!(client.fetch(get("/")).await.text(), "staying", "{}", pod.name);
        }
        assert_eq!(going.seen().len(), before);
    }
}

#[tokio::test]
async fn a_response_that_is_under_way_ends_as_it_should_and_its_connection_with_it() {
    for pod in [CART, PAY, LEGACY] {
        let lab = Lab::start().await;
        let (app, mut bodies) = written_by_hand(&lab, pod).await;
        let other = App::says(&lab, LEGACY, "other").await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        begin(&lab);
        let response = H1::dial(&lab, WEB, vip).await.send(get("/")).await.unwrap();
        let body = bodies.recv().await.unwrap();
        terminate(&lab, "cart", 0, pod);
        lab.service("other", AppProtocol::Http, &[other.addr]).await;
        body.send(Frame::data(Bytes::from_static(b"end"))).unwrap();
        drop(body);
        let whole = soon("the rest", response.into_body().collect()).await.unwrap();
        assert_eq!(whole.to_bytes(), "begin end", "{}", pod.name);
        eventually("nothing is kept", || kept(&lab, pool_of(pod)) == 0).await;
    }
}

#[tokio::test]
async fn what_does_not_end_by_itself_is_ended_after_the_limit() {
    for pod in [CART, PAY, LEGACY] {
        let lab = Lab::start().await;
        let (app, mut bodies) = written_by_hand(&lab, pod).await;
        let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
        begin(&lab);
        let response = H1::dial(&lab, WEB, vip).await.send(get("/")).await.unwrap();
        let _never_ended = bodies.recv().await.unwrap();
        terminate(&lab, "cart", 0, pod);
        let cut = soon("the limit", response.into_body().collect()).await;
        assert!(cut.is_err(), "{}", pod.name);
    }
}

#[tokio::test]
async fn bytes_go_on_until_the_limit_and_end_with_a_flag() {
    for pod in [CART, PAY, LEGACY] {
        let lab = Lab::start().await;
        let app = echo(&lab, pod).await;
        let vip = lab.service("cart", AppProtocol::Tcp, &[app]).await;
        begin(&lab);
        let mut stream = lab.dial(WEB, vip).await;
        let mut answer = [0; 5];
        for before_and_after in [false, true] {
            if before_and_after {
                terminate(&lab, "cart", 0, pod);
            }
            stream.write_all(b"hello").await.unwrap();
            soon("echo", stream.read_exact(&mut answer)).await.unwrap();
        }
        let mut rest = Vec::new();
        // Whether the end is a FIN or a reset depends on what was unread.
        let _either = soon("the limit", stream.read_to_end(&mut rest)).await;
        let log = lab.a.logged(1).await;
        assert_eq!(log[0]["response_flags"], "DT", "{} {log:?}", pod.name);
        assert_eq!(log[0]["connection_termination_details"], "endpoint_drained");
    }
}

#[tokio::test]
async fn when_nobody_else_is_left_who_goes_is_used_as_anybody() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "still here").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    begin(&lab);
    let mut client = H1::dial(&lab, WEB, vip).await;
    client.fetch(get("/")).await;
    terminate(&lab, "pay", 0, PAY);
    for _ in 0..3 {
        lab.change(|_| {});
        assert_eq!(client.fetch(get("/")).await.text(), "still here");
    }
    eventually("one connection is kept", || kept(&lab, WEB) == 1).await;
}

#[tokio::test]
async fn no_request_fails_while_pods_are_replaced_under_load() {
    let lab = Lab::start().await;
    let mut apps = Vec::new();
    for pod in [CART, PAY, LEGACY, PAY] {
        apps.push((pod, App::says(&lab, pod, "ok").await));
    }
    let addrs: Vec<SocketAddr> = apps.iter().map(|(_, app)| app.addr).collect();
    let vip = lab.service("cart", AppProtocol::Http, &addrs).await;
    begin(&lab);
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(H1::dial(&lab, WEB, vip).await);
    }
    for index in 0..apps.len() {
        for condition in [EndpointCondition::ServingTerminating, EndpointCondition::Ready] {
            lab.change(|facts| facts.endpoints[index].condition = condition);
            for turn in 0..20 {
                let client = &mut clients[turn % 4];
                assert_eq!(client.fetch(get("/")).await.text(), "ok");
            }
        }
    }
    assert!(apps.iter().all(|(_, app)| !app.seen().is_empty()));
}

#[tokio::test]
async fn clients_outside_the_mesh_are_told_that_a_pod_goes_away() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "hello").await;
    lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    begin(&lab);
    let addr = lab.steer(app.addr, LEGACY.ip).await;
    let dial = || async { tokio::net::TcpStream::connect(addr).await.unwrap() };
    let mut h1 = H1::on(&lab, dial().await).await;
    let mut h2 = H2::on(&lab, dial().await).await;
    assert!(!h1.fetch(get("/")).await.headers.contains_key("connection"));
    h2.fetch(get2("/")).await;

    terminate(&lab, "pay", 0, PAY);
    eventually("GOAWAY", || h2.0.is_closed()).await;
    let told = h1.fetch(get("/")).await;
    assert_eq!(
        (told.text(), &told.headers["connection"]),
        ("hello", &"close".parse().unwrap())
    );
    eventually("the connection ends", || h1.0.is_closed()).await;
    // Who comes all the same is served.
    let mut late = H2::on(&lab, dial().await).await;
    for _ in 0..3 {
        assert_eq!(late.fetch(get2("/")).await.text(), "hello");
    }
}
