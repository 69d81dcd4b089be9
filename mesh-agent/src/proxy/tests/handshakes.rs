//! Storms of handshakes: what becomes of the pod that they are for, and of its neighbours.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::app::App;
use super::client::{H1, get};
use super::facts::{self, BANK, PAY, WEB};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;
use crate::transport::handshakes::AT_ONCE;

/// The first record that the agent of `WEB` sends to what it takes for `PAY`.
async fn client_hello(lab: &Lab) -> Vec<u8> {
    let listener = TcpListener::bind((PAY.ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let vip = SocketAddr::new([10, 96, 1, 1].into(), facts::PORT);
    lab.a.change(|facts| {
        facts
            .services
            .push(facts::service("silent", vip.ip(), AppProtocol::Tcp).into());
        facts.endpoints.push(facts::endpoint("silent", addr));
    });
    let mut client = lab.dial(WEB, vip).await;
    client.write_all(b"x").await.unwrap();
    let (mut wire, _) = soon("the agent dials", listener.accept()).await.unwrap();
    let mut head = [0; 5];
    soon("a record", wire.read_exact(&mut head)).await.unwrap();
    let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
    let mut record = vec![0; length];
    soon("its rest", wire.read_exact(&mut record)).await.unwrap();
    [head.as_slice(), &record].concat()
}

#[tokio::test]
async fn a_storm_for_one_pod_is_refused_and_counted_and_its_neighbour_goes_on() {
    let lab = Lab::start().await;
    let stormed = App::says(&lab, PAY, "paid").await;
    let neighbour = App::says(&lab, BANK, "rich").await;
    let vip = lab.service("bank", AppProtocol::Http, &[neighbour.addr]).await;
    let hello = client_hello(&lab).await;
    let gate = lab.steer(stormed.addr, WEB.ip).await;

    // Each begins, and never answers.
    let mut storm = Vec::new();
    for _ in 0..=AT_ONCE {
        let mut stream = TcpStream::connect(gate).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        storm.push(stream);
    }

    let of_pod = [
        ("namespace", "shop"),
        ("workload", PAY.name),
        ("direction", "inbound"),
    ];
    let refused = || lab.b.sum("mesh_handshakes_refused_total", &of_pod);
    eventually("some are refused", || refused() > 0).await;
    let reply = H1::dial(&lab, WEB, vip).await.fetch(get("/")).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "rich"));
    assert_eq!(
        refused(),
        lab.b.sum("mesh_handshakes_refused_total", &[]),
        "of the neighbour none"
    );
}
