//! Connections that are used again, and by whom never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::sync::Barrier;

use super::app::{App, heard, speaks};
use super::client::{H1, get};
use super::facts::{BANK, CART, LEGACY, PAY, WEB};
use super::lab::Lab;
use crate::mesh::service::AppProtocol;
use crate::mesh::workload::WorkloadUid;

#[tokio::test]
async fn connections_of_two_clients_are_never_mixed() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let gate = lab.steer(app.addr, LEGACY.ip).await;
    let mut ours = H1::dial(&lab, WEB, vip).await;
    let mut theirs = H1::on(&lab, tokio::net::TcpStream::connect(gate).await.unwrap()).await;
    for turn in 0..3 {
        for (client, ip) in [(&mut ours, WEB.ip), (&mut theirs, LEGACY.ip)] {
            client.fetch(get("/")).await;
            let peer = app.seen().last().unwrap().peer;
            let shown = lab.a.flows.true_peer(CART.cookie, peer).unwrap();
            assert_eq!(shown.ip(), ip, "turn {turn}");
        }
    }
    let peers: std::collections::BTreeSet<_> = app.seen().iter().map(|seen| seen.peer).collect();
    assert_eq!(peers.len(), 2, "one connection for each");
}

#[tokio::test]
async fn a_new_pod_at_an_old_address_meets_no_old_connection() {
    let lab = Lab::start().await;
    let app = App::says(&lab, PAY, "paid").await;
    let vip = lab.service("pay", AppProtocol::Http, &[app.addr]).await;
    let mut client = H1::dial(&lab, WEB, vip).await;
    assert_eq!(client.fetch(get("/")).await.status, 200);

    lab.a.change(|facts| {
        for workload in &mut facts.workloads {
            if workload.addrs == [PAY.ip] {
                workload.uid = WorkloadUid::new("shop/newcomer");
                workload.identity = BANK.identity();
            }
        }
    });

    assert_eq!(
        client.fetch(get("/")).await.status,
        503,
        "pay's agent is not whom it expects now"
    );
    assert_eq!(app.seen().len(), 1);
}

/// RFC 9110 section 9.2.2: a retry that fails is not retried; a request that kills its server kills it twice at most.
#[tokio::test]
async fn a_request_is_sent_again_once_however_many_connections_are_kept() {
    let lab = Lab::start().await;
    let all_there = Arc::new(Barrier::new(KEPT));
    let deliveries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&deliveries);
    // Answers the first request of a connection once there are as many connections as shall be kept; reads the
    // second one and closes.
    let addr = speaks(&lab, CART, move |mut stream| {
        let (all_there, counted) = (Arc::clone(&all_there), Arc::clone(&counted));
        async move {
            if !heard(&mut stream).await || counted.fetch_add(1, Ordering::Relaxed) >= KEPT {
                return;
            }
            all_there.wait().await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            if heard(&mut stream).await {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    let vip = lab.service("cart", AppProtocol::Http, &[addr]).await;
    let first = (0..KEPT).map(|_| async {
        let mut client = H1::dial(&lab, WEB, vip).await;
        assert_eq!(client.fetch(get("/")).await.status, 200);
    });
    join_all(first).await;
    assert_eq!(deliveries.load(Ordering::Relaxed), KEPT);

    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;

    assert_eq!(reply.status, 503);
    assert_eq!(deliveries.load(Ordering::Relaxed), KEPT + 2);
}

const KEPT: usize = 5;
