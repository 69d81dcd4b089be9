//! A listener misses nobody where its task moves, and is woken where the task is.

use std::future::poll_fn;
use std::net::TcpStream as Peer;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::*;
use crate::lifecycle::lanes::tests::Divided;

fn listener(divided: &Divided) -> Arc<LaneListener> {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let _on_ordinary = divided.ordinary.enter();
    Arc::new(LaneListener::from_std(listener).unwrap())
}

#[test]
fn who_dials_comes_in_before_and_after_each_move() {
    let divided = Divided::new();
    let listener = listener(&divided);
    let (said, mut heard) = mpsc::unbounded_channel();
    let own = Arc::clone(&listener);
    divided.group.spawn("accept", async move {
        for _ in 0..7 {
            let (stream, peer) = poll_fn(|cx| own.poll_accept(cx)).await.unwrap();
            let is_here = own.registered.lock().home == here() && here().is_some();
            said.send((stream.peer_addr().unwrap() == peer, is_here)).unwrap();
        }
    });
    for is_heavy in [false, true, true, false, true] {
        divided.set_heavy(is_heavy);
        let _peer = Peer::connect(listener.local_addr()).unwrap();
        assert_eq!(
            heard.blocking_recv(),
            Some((true, true)),
            "registered where it is polled"
        );
    }
    divided.set_heavy(false);
    let _crowd = [(); 2].map(|()| Peer::connect(listener.local_addr()).unwrap());
    for _ in 0..2 {
        assert_eq!(
            heard.blocking_recv(),
            Some((true, true)),
            "nobody of those at once is missed"
        );
    }
    divided.ended();
}

#[test]
fn a_listener_of_no_lane_stays_where_it_is() {
    let divided = Divided::new();
    let listener = listener(&divided);
    let _peer = Peer::connect(listener.local_addr()).unwrap();
    let accepted = divided.bulk.block_on(poll_fn(|cx| listener.poll_accept(cx)));
    assert!(accepted.is_ok());
    assert_eq!(listener.registered.lock().home, None);
    divided.ended();
}
