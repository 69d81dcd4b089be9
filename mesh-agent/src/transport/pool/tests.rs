//! Claims about pooled connections, tried without sockets.

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::poll_immediate;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::Notify;

use super::*;
use crate::lifecycle::PATIENCE;
use crate::transport::http::TaskExecutor;
use crate::transport::never;

fn key(wire: Wire) -> PoolKey {
    PoolKey {
        endpoint: None,
        addr: ([127, 0, 0, 1], 80).into(),
        client: None,
        wire,
        tls: None,
        proxied: None,
        reuse: Reuse::default(),
    }
}

fn request() -> Request<Body> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::get("http://a/").body(body).unwrap()
}

/// An HTTP/2 server that answers everything with an empty body; says when its connection ended.
fn serve(tasks: &Tasks, stream: DuplexStream, ended: &Arc<AtomicBool>) {
    let (executor, ended) = (TaskExecutor(tasks.clone()), Arc::clone(ended));
    tasks.spawn("server", async move {
        let service = service_fn(|_| async { Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new())) });
        let builder = http2::Builder::new(executor);
        // However it ended.
        let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
        ended.store(true, Ordering::Relaxed);
    });
}

/// Dials as soon as `may` says so.
fn connect(
    tasks: &Tasks,
    may: &Arc<Notify>,
    ended: &Arc<AtomicBool>,
    dialled: &Arc<AtomicBool>,
) -> impl Fn() -> BoxFuture<'static, Result<Box<dyn ByteStream>, DialError>> + Send + Sync {
    let (tasks, may) = (tasks.clone(), Arc::clone(may));
    let (ended, dialled) = (Arc::clone(ended), Arc::clone(dialled));
    move || {
        let (tasks, may) = (tasks.clone(), Arc::clone(&may));
        let (ended, dialled) = (Arc::clone(&ended), Arc::clone(&dialled));
        async move {
            may.notified().await;
            let (ours, theirs) = duplex(64 * 1024);
            serve(&tasks, theirs, &ended);
            dialled.store(true, Ordering::Relaxed);
            let stream: Box<dyn ByteStream> = Box::new(ours);
            Ok(stream)
        }
        .boxed()
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test]
async fn a_dial_goes_on_although_who_began_it_went_away() {
    let (tasks, may) = (Tasks::new(), Arc::new(Notify::new()));
    let (ended, dialled) = (Arc::default(), Arc::default());
    let pool = HttpPool::new(tasks.clone());
    let key = key(Wire::H2);
    let connect = connect(&tasks, &may, &ended, &dialled);
    let mut first = Box::pin(pool.send(&tasks, &key, request(), &connect));
    assert!(poll_immediate(&mut first).await.is_none());
    drop(first);

    may.notify_one();
    eventually("dialled with nobody waiting", || dialled.load(Ordering::Relaxed)).await;

    let never: Connect<'_> = &|| panic!("there is a connection already");
    let response = pool.send(&tasks, &key, request(), never).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_closed_pool_serves_what_still_comes_and_keeps_nothing() {
    let (tasks, may) = (Tasks::new(), Arc::new(Notify::new()));
    let (ended, dialled) = (Arc::<AtomicBool>::default(), Arc::default());
    let pool = HttpPool::new(tasks.clone());
    pool.close();

    may.notify_one();
    let connect = connect(&tasks, &may, &ended, &dialled);
    let response = pool
        .send(&tasks, &key(Wire::H2), request(), &connect)
        .await
        .unwrap();
    assert_eq!((response.status(), pool.len()), (StatusCode::OK, 0));

    drop(response);
    eventually("the connection ends with its last request", || {
        ended.load(Ordering::Relaxed)
    })
    .await;
}

/// A connection whose ends prove who they are until a given moment.
#[derive(Debug)]
struct Proved(DuplexStream, SystemTime);

impl AsyncRead for Proved {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Proved {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl ByteStream for Proved {
    fn reset_on_close(&self) {}

    fn proved_until(&self) -> Option<SystemTime> {
        Some(self.1)
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        never()
    }
}

/// How often three requests dial, over connections that are proved until then.
async fn dials(until: SystemTime) -> usize {
    dials_of(until, Reuse::default(), false).await
}

/// The same under `reuse`; where they `overlap` no response is read before the last request.
async fn dials_of(until: SystemTime, reuse: Reuse, overlap: bool) -> usize {
    let tasks = Tasks::new();
    let pool = HttpPool::new(tasks.clone());
    let dialled = Arc::new(AtomicUsize::new(0));
    let key = PoolKey {
        reuse,
        ..key(Wire::H2)
    };
    let mut under_way = Vec::new();
    for _ in 0..3 {
        let (served_by, dialled) = (tasks.clone(), Arc::clone(&dialled));
        let connect = move || -> BoxFuture<'static, Result<Box<dyn ByteStream>, DialError>> {
            dialled.fetch_add(1, Ordering::Relaxed);
            let (ours, theirs) = duplex(64 * 1024);
            serve(&served_by, theirs, &Arc::default());
            let stream: Box<dyn ByteStream> = Box::new(Proved(ours, until));
            std::future::ready(Ok(stream)).boxed()
        };
        let response = pool.send(&tasks, &key, request(), &connect).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        if overlap {
            under_way.push(response);
        }
    }
    dialled.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_connection_whose_certificates_have_expired_carries_no_new_request() {
    let now = SystemTime::now();
    assert_eq!(dials(now + Duration::from_hours(1)).await, 1);
    assert_eq!(dials(now - Duration::from_secs(1)).await, 3);
}

#[tokio::test]
async fn an_http_2_connection_carries_no_more_than_its_policy_says() {
    let later = SystemTime::now() + Duration::from_hours(1);
    let two = NonZeroU32::new(2);
    let (requests, streams) = (
        Reuse {
            requests: two,
            ..Reuse::default()
        },
        Reuse {
            streams: two,
            ..Reuse::default()
        },
    );
    for (reuse, overlap, expected) in [
        (Reuse::default(), true, 1),
        (requests, false, 2),
        (streams, false, 1),
        (streams, true, 2),
    ] {
        assert_eq!(
            dials_of(later, reuse, overlap).await,
            expected,
            "{reuse:?} {overlap}"
        );
    }
}
