//! Input that nobody sane sends, and policies that change under a connection.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{App, speaks};
use super::client::{H1, H2, exchange, get, get2};
use super::facts::{CART, LEGACY, PAY, WEB, strict};
use super::lab::{Lab, eventually, soon};
use crate::mesh::service::AppProtocol;

/// A piece of a protocol with some bytes changed, or noise.
fn noise(rng: &mut SmallRng) -> Vec<u8> {
    const PIECES: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x01\x05\0\0\0\x01\x82\x84\x86\x41",
        b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03",
        b"\x16\x03\x01\x00\x20\x01\x00\x00\x1c\x03\x03\0\0\0\0\0\0\0\0\x10\0\x09\0\x07mesh-h2",
        b"",
    ];
    let mut bytes = PIECES[rng.random_range(0..PIECES.len())].to_vec();
    let mut tail = vec![0; rng.random_range(0..64)];
    rng.fill_bytes(&mut tail);
    bytes.extend(tail);
    for _ in 0..rng.random_range(0..4) {
        if let Some(last) = bytes.len().checked_sub(1) {
            bytes[rng.random_range(0..=last)] = rng.random();
        }
    }
    bytes
}

#[tokio::test]
async fn no_bytes_of_a_client_stop_the_agents_or_leave_anything_behind() {
    let lab = Lab::start().await;
    let near = App::says(&lab, CART, "hello").await;
    let far = App::says(&lab, PAY, "paid").await;
    let mut doors = Vec::new();
    for (name, protocol) in [("http", AppProtocol::Http), ("any", AppProtocol::Detect)] {
        doors.push(lab.service(&format!("near-{name}"), protocol, &[near.addr]).await);
        doors.push(lab.service(&format!("far-{name}"), protocol, &[far.addr]).await);
    }
    let gate = lab.steer(far.addr, LEGACY.ip).await;
    let mut rng = SmallRng::seed_from_u64(7);
    for turn in 0..300 {
        let bytes = noise(&mut rng);
        let mut stream = match doors.get(turn % 5) {
            Some(vip) => lab.dial(WEB, *vip).await,
            None => TcpStream::connect(gate).await.unwrap(),
        };
        // Whatever the agents make of it, they need not take it all.
        let _sent = stream.write_all(&bytes).await;
        let _closed = stream.shutdown().await;
        let mut answer = Vec::new();
        let _answered = soon("the agents let go", stream.read_to_end(&mut answer)).await;
    }

    assert_eq!((lab.a.tasks.panics(), lab.b.tasks.panics()), (0, 0));
    eventually("load is given back", || lab.a.load() + lab.b.load() == 0).await;
    for vip in doors {
        assert_eq!(H1::dial(&lab, WEB, vip).await.fetch(get("/")).await.status, 200);
    }
    for agent in [&lab.a, &lab.b] {
        agent.tasks.request_stop();
        agent.mesh.close_pools();
        assert!(agent.tasks.joined(std::time::Duration::from_secs(8)).await);
        assert_eq!(agent.flows.true_peers(), 0);
    }
}

#[tokio::test]
async fn plaintext_that_becomes_forbidden_ends() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    lab.service("cart", AppProtocol::Http, &[app.addr]).await;
    let bytes = speaks(&lab, CART, |mut stream| async move {
        // Ends when the connection does.
        let _end = tokio::io::copy(&mut stream.split().0, &mut tokio::io::sink()).await;
    })
    .await;
    lab.service("bytes", AppProtocol::Tcp, &[bytes]).await;
    let gate = lab.steer(app.addr, LEGACY.ip).await;
    let mut one = H1::on(&lab, TcpStream::connect(gate).await.unwrap()).await;
    let mut two = H2::on(&lab, TcpStream::connect(gate).await.unwrap()).await;
    let mut opaque = TcpStream::connect(lab.steer(bytes, LEGACY.ip).await)
        .await
        .unwrap();
    assert_eq!(one.fetch(get("/")).await.status, 200);
    assert_eq!(two.fetch(get2("/")).await.status, 200);
    opaque.write_all(b"x").await.unwrap();
    let received = [("reporter", "destination"), ("destination_service_name", "bytes")];
    eventually("the opaque connection", || {
        lab.a.sum("istio_tcp_connections_opened_total", &received) == 1
    })
    .await;

    lab.change(|facts| facts.peer_authentications.push(strict()));

    eventually("HTTP/1.1 ends", || one.0.is_closed()).await;
    eventually("HTTP/2 ends", || two.0.is_closed()).await;
    // Closed, with or without a reset.
    let _closed = exchange(&mut opaque, b"").await;
    assert_eq!(app.seen().len(), 2);
}
