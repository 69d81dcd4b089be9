//! Connections that are used again, and by whom never.

use super::app::App;
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
