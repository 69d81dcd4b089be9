//! HTTP/2 clients that cost an agent much and themselves little: each is told to calm down, or what it can make the
//! agent hold is bounded.

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::app::App;
use super::facts::{CART, WEB};
use super::lab::{Lab, soon};
use crate::mesh::service::AppProtocol;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u32 = 11;
/// `:method: GET`, `:scheme: http`, `:path: /` of the static table, and `:authority: a` (RFC 7541).
const GET: [u8; 6] = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
/// The same with POST.
const POST: [u8; 6] = [0x83, 0x86, 0x84, 0x41, 0x01, b'a'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A connection of a client that has said hello.
async fn hello(lab: &Lab, vip: std::net::SocketAddr) -> TcpStream {
    let mut stream = lab.dial(WEB, vip).await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// One frame of the agent's: kind, flags, payload; `None` at the end.
async fn next(read: &mut OwnedReadHalf) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    read.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}

/// The code of the GOAWAY with which the agent ends the connection; `None` when it just ends.
async fn goaway(mut read: OwnedReadHalf) -> Option<u32> {
    let mut code = None;
    while let Some((kind, _, payload)) = next(&mut read).await {
        if kind == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    code
}

/// Writes what `flood` gives for 0, 1, 2 ... until the agent takes no more, at most `most` times.
async fn pour(mut write: OwnedWriteHalf, most: u32, flood: impl Fn(u32) -> Vec<u8>) -> u32 {
    for turn in 0..most {
        if write.write_all(&flood(turn)).await.is_err() {
            return turn;
        }
    }
    most
}

/// Floods the agent with an application behind that says hello; what the GOAWAY said, and how much was taken.
async fn flooded(lab: &Lab, first: Vec<u8>, flood: impl Fn(u32) -> Vec<u8>) -> (Option<u32>, u32) {
    let app = App::says(lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http2, &[app.addr]).await;
    let stream = hello(lab, vip).await;
    SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER).unwrap();
    let (read, mut write) = stream.into_split();
    write.write_all(&first).await.unwrap();
    let both = async { tokio::join!(goaway(read), pour(write, MOST, flood)) };
    soon("the agent ends the connection", both).await
}

/// How much the agent takes of `piece`; `None` once it takes nothing any more.
async fn takes(stream: &TcpStream, piece: &[u8]) -> Option<usize> {
    timeout(QUIET, stream.writable()).await.ok()?.ok()?;
    match stream.try_write(piece) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(0),
        written => written.ok(),
    }
}

/// Writes `piece` again and again until the agent takes nothing any more, or far too much; how much it took.
async fn poured(stream: &TcpStream, piece: &[u8]) -> usize {
    let mut taken = 0;
    while taken < BOUND {
        match takes(stream, piece).await {
            Some(more) => taken += more,
            None => break,
        }
    }
    taken
}

fn odd(turn: u32) -> u32 {
    2 * turn + 1
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let lab = Lab::start().await;
    let (code, taken) = flooded(&lab, Vec::new(), |turn| {
        let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, odd(turn), &GET);
        bytes.extend(frame(RST_STREAM, 0, odd(turn), &8_u32.to_be_bytes()));
        bytes
    })
    .await;
    // h2 says why where many are reset before they are taken; where each is taken at once, most are given up.
    assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "{code:?}");
    assert!(taken < MOST);
}

#[tokio::test]
async fn continuations_without_an_end_end_the_connection() {
    let lab = Lab::start().await;
    let first = frame(HEADERS, END_STREAM, 1, &GET);
    let (code, taken) = flooded(&lab, first, |_| frame(CONTINUATION, 0, 1, &[])).await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{taken}");
    assert!(taken < MOST);
}

#[tokio::test]
async fn empty_and_tiny_data_end_the_connection() {
    for tiny in [&b""[..], b"a"] {
        let lab = Lab::start().await;
        let first = frame(HEADERS, END_HEADERS, 1, &POST);
        let (code, taken) = flooded(&lab, first, |_| frame(DATA, 0, 1, tiny)).await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{taken} frames of {tiny:?}");
        assert!(taken < MOST);
    }
}

/// What each of these asks for is an answer. A client that reads none is not read any more either: what the agent owes
/// it stays bounded by a few buffers, however long it goes on.
#[tokio::test]
async fn settings_and_pings_of_a_client_that_reads_nothing_are_not_taken_for_ever() {
    for (kind, payload) in [(SETTINGS, &[][..]), (PING, &[0; 8])] {
        let lab = Lab::start().await;
        let app = App::says(&lab, CART, "hello").await;
        let vip = lab.service("cart", AppProtocol::Http2, &[app.addr]).await;
        let stream = hello(&lab, vip).await;
        let piece = frame(kind, 0, 0, payload).repeat(1000);
        let taken = soon("the agent takes no more", poured(&stream, &piece)).await;
        assert!(taken < BOUND, "frames of kind {kind}: {taken} bytes taken");
    }
}

/// Neither has an answer, nor is anything kept of them: the connection goes on, and so does its next request.
#[tokio::test]
async fn priorities_and_window_updates_leave_nothing_behind() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http2, &[app.addr]).await;
    let (mut read, mut write) = hello(&lab, vip).await.into_split();
    let pouring = async {
        for turn in 0..MOST {
            let mut bytes = frame(PRIORITY, 0, odd(turn % 1000) + 100, &[0, 0, 0, 0, 1]);
            if turn < 1000 {
                bytes.extend(frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()));
            }
            write.write_all(&bytes).await.unwrap();
        }
        write
            .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2001, &GET))
            .await
            .unwrap();
    };
    let answered = async {
        while let Some((kind, _, _)) = next(&mut read).await {
            if kind == HEADERS {
                return true;
            }
        }
        false
    };
    let (is_answered, ()) = soon("an answer", async { tokio::join!(answered, pouring) }).await;
    assert!(is_answered);
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn a_head_above_the_limit_is_refused_on_its_stream_only() {
    let lab = Lab::start().await;
    let app = App::says(&lab, CART, "hello").await;
    let vip = lab.service("cart", AppProtocol::Http2, &[app.addr]).await;
    let (mut read, mut write) = hello(&lab, vip).await.into_split();
    // A literal field without indexing: `x: yyyy...`, 100 bytes each.
    let mut fields = GET.to_vec();
    for _ in 0..150 {
        fields.extend([0, 1, b'x', 100]);
        fields.extend([b'y'; 100]);
    }
    let mut bytes = frame(HEADERS, END_STREAM, 1, &fields);
    // 78 KB; more continuations would end the connection.
    for turn in 0..4 {
        let flags = if turn == 3 { END_HEADERS } else { 0 };
        bytes.extend(frame(CONTINUATION, flags, 1, &fields[GET.len()..]));
    }
    bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 3, &GET));
    write.write_all(&bytes).await.unwrap();
    let seen = soon("answers", async {
        let mut heads = 0;
        while heads < 2 {
            match next(&mut read).await {
                Some((HEADERS, _, _)) => heads += 1,
                Some((GOAWAY, _, payload)) => panic!("goaway {payload:?}"),
                Some((SETTINGS, flags, _)) if flags & ACK == 0 => {
                    write.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
                }
                Some(_) => {}
                None => break,
            }
        }
        heads
    })
    .await;
    assert_eq!(seen, 2, "431 for one, 200 for the other");
    assert_eq!(app.seen().len(), 1);
}

/// Far more than any limit.
const MOST: u32 = 50_000;
/// Bytes: what waits in the client's socket was not taken by the agent, whoever of both runs first.
const SEND_BUFFER: usize = 4096;
/// What sockets on both ends hold, several times over.
const BOUND: usize = 64 * 1024 * 1024;
/// How long a socket that takes nothing is taken to be stuck.
const QUIET: std::time::Duration = std::time::Duration::from_millis(500);
