//! A stream loses nothing where its task moves, and is woken where the task is.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as Peer};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::lifecycle::PATIENCE;
use crate::lifecycle::lanes::tests::Divided;

/// A stream that is registered with the ordinary driver, and its other end.
fn pair(divided: &Divided) -> (LaneStream, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let _on_ordinary = divided.ordinary.enter();
    (TcpStream::from_std(stream).unwrap().into(), peer)
}

#[test]
fn bytes_come_through_before_and_after_each_move() {
    let divided = Divided::new();
    let (mut stream, mut peer) = pair(&divided);
    let (said, mut heard) = mpsc::unbounded_channel();
    divided.group.spawn("echo", async move {
        let mut word = [0; 4];
        while stream.read_exact(&mut word).await.is_ok() {
            stream.write_all(&word).await.unwrap();
            said.send(stream.home == here() && here().is_some()).unwrap();
        }
    });
    for is_heavy in [false, true, true, false, true] {
        divided.set_heavy(is_heavy);
        let mut word = [0; 4];
        peer.write_all(b"ping").unwrap();
        peer.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"ping");
        assert_eq!(heard.blocking_recv(), Some(true), "registered where it is polled");
    }
    drop(peer);
    divided.ended();
}

#[test]
fn who_waits_for_room_hears_of_it_although_a_read_moved_the_stream() {
    let divided = Divided::new();
    let (stream, mut peer) = pair(&divided);
    let (said, mut heard) = mpsc::unbounded_channel();
    let stuck = Arc::new(tokio::sync::Notify::new());
    let is_stuck = Arc::clone(&stuck);
    divided.group.spawn("both ways", async move {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let write = async {
            let mut sent = 0_u64;
            let block = vec![7; 1 << 16];
            loop {
                // Pending once the peer's window and our own buffer are full.
                let mut written = std::pin::pin!(writer.write(&block));
                let now = std::future::poll_fn(|cx| Poll::Ready(written.as_mut().poll(cx))).await;
                match now {
                    Poll::Ready(count) => sent += u64::try_from(count.unwrap()).unwrap(),
                    Poll::Pending => break is_stuck.notify_one(),
                }
            }
            let last = writer.write(&block).await.unwrap();
            writer.shutdown().await.unwrap();
            sent + u64::try_from(last).unwrap()
        };
        let read = async { reader.read_u8().await.unwrap() };
        let (sent, byte) = tokio::join!(write, read);
        said.send((sent, byte)).unwrap();
    });
    divided.ordinary.block_on(stuck.notified());
    divided.set_heavy(true);
    peer.write_all(&[9]).unwrap();
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    let (sent, byte) = heard.blocking_recv().unwrap();
    assert_eq!((u64::try_from(all.len()).unwrap(), byte), (sent, 9));
    divided.ended();
}

#[test]
fn a_stream_of_no_lane_stays_where_it_is() {
    let divided = Divided::new();
    let (mut stream, mut peer) = pair(&divided);
    peer.write_all(b"a").unwrap();
    let byte = divided.bulk.block_on(async { stream.read_u8().await.unwrap() });
    assert_eq!((byte, stream.home), (b'a', None));
    divided.ended();
}
