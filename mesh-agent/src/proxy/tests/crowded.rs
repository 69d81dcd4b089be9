//! What one pod may have at a time, and what its neighbours have of it.

use std::io::ErrorKind;
use std::sync::Arc;

use tokio::io::AsyncReadExt;

use super::app::{App, written_by_hand};
use super::client::{H1, get};
use super::facts::{BANK, CART, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;
use crate::proxy::pods::{MAX_CONNECTIONS, MAX_REQUESTS};

#[tokio::test]
async fn a_pod_with_too_many_requests_is_refused_and_its_neighbour_is_not() {
    let lab = Lab::start().await;
    let (app, mut bodies) = written_by_hand(&lab, PAY).await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let served = lab.a.mesh.pods.find(&WEB.workload().uid).unwrap();
    let all_but_one = u32::try_from(MAX_REQUESTS - 1).unwrap();
    let others = Arc::clone(&served.requests)
        .try_acquire_many_owned(all_but_one)
        .unwrap();

    let mut last = H1::dial(&lab, WEB, vip).await;
    let response = soon("its head", last.send(get("/"))).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = bodies.recv().await.unwrap();

    let mut client = H1::dial(&lab, WEB, vip).await;
    let refused = client.fetch(get("/")).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.headers["x-envoy-overloaded"], "true");
    let of_pod = [
        ("workload", WEB.name),
        ("direction", "outbound"),
        ("limit", "requests"),
    ];
    assert_eq!(lab.a.sum("mesh_pod_limits_refused_total", &of_pod), 1);
    eventually("its record", || {
        let log = lab.a.log();
        log.iter().any(|line| line["response_flags"] == "OM")
    })
    .await;

    let neighbour = App::says(&lab, BANK, "rich").await;
    let bank = lab.service("bank", AppProtocol::Http, &[neighbour.addr]).await;
    let reply = H1::dial(&lab, CART, bank).await.fetch(get("/")).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "rich"));

    // The place is given back with the last byte of the response, not with its head.
    assert_eq!(served.requests.available_permits(), 0);
    drop(body);
    drop(response);
    eventually("its place", || served.requests.available_permits() == 1).await;
    drop(others);
    eventually("all of them", || {
        served.requests.available_permits() == MAX_REQUESTS
    })
    .await;
}

#[tokio::test]
async fn a_pod_with_too_many_connections_is_reset_and_its_neighbour_is_not() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let served = lab.a.mesh.pods.find(&WEB.workload().uid).unwrap();
    let all = u32::try_from(MAX_CONNECTIONS).unwrap();
    let others = Arc::clone(&served.connections)
        .try_acquire_many_owned(all)
        .unwrap();

    let mut refused = lab.dial(WEB, vip).await;
    let error = soon("its end", refused.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let of_pod = [
        ("workload", WEB.name),
        ("direction", "outbound"),
        ("limit", "connections"),
    ];
    assert_eq!(lab.a.sum("mesh_pod_limits_refused_total", &of_pod), 1);

    let reply = H1::dial(&lab, CART, vip).await.fetch(get("/")).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "paid"));
    drop(others);
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!(reply.status, 200);
}
