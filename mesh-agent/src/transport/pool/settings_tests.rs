//! HTTP/2 servers that change their mind about how many streams they take.

use std::sync::atomic::AtomicUsize;

use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Empty};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

/// Takes `first` streams at a time, and from its first response on `later`. That one has no body, others never end.
async fn serve(mut stream: DuplexStream, first: u32, later: u32) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&settings(first)).await?;
    let mut is_first = true;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, _, id @ ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await?;
        if kind == HEADERS {
            let flags = if is_first {
                END_HEADERS | END_STREAM
            } else {
                END_HEADERS
            };
            // Said before the response, so that who has that one has heard it.
            stream.write_all(&settings(later)).await?;
            let response = [&[0, 0, 1, HEADERS, flags][..], &id, &[STATUS_200]].concat();
            stream.write_all(&response).await?;
            is_first = false;
        }
    }
}

/// SETTINGS with `MAX_CONCURRENT_STREAMS` (RFC 9113 section 6.5).
fn settings(streams: u32) -> Vec<u8> {
    [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3][..], &streams.to_be_bytes()].concat()
}

fn request() -> Request<Body> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::get("http://a/").body(body).unwrap()
}

/// How many connections one request and, once it is over, three at a time need.
async fn dials(first: u32, later: u32) -> usize {
    let tasks = Tasks::new();
    let pool = HttpPool::new(tasks.clone());
    let dialled = Arc::new(AtomicUsize::new(0));
    let key = PoolKey {
        endpoint: None,
        addr: ([127, 0, 0, 1], 80).into(),
        client: None,
        wire: Wire::H2,
        tls: None,
        proxied: None,
        reuse: Reuse::default(),
    };
    let connect = || -> BoxFuture<'static, Result<Box<dyn ByteStream>, DialError>> {
        dialled.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = duplex(64 * 1024);
        // It ends with the connection.
        tasks.spawn("server", serve(theirs, first, later).map(drop));
        let stream: Box<dyn ByteStream> = Box::new(ours);
        std::future::ready(Ok(stream)).boxed()
    };
    drop(pool.send(&tasks, &key, request(), &connect).await.unwrap());
    let mut under_way = Vec::new();
    for _ in 0..3 {
        under_way.push(pool.send(&tasks, &key, request(), &connect).await.unwrap());
    }
    dialled.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_server_that_takes_fewer_or_more_streams_than_before_is_heard() {
    for (first, later, expected) in [(10, 10, 1), (10, 1, 3), (10, 2, 2), (1, 3, 1), (1, 1, 3)] {
        assert_eq!(dials(first, later).await, expected, "{first}, then {later}");
    }
}

const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` of the static table (RFC 7541 appendix A).
const STATUS_200: u8 = 0x88;
