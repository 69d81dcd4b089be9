//! HTTP client connections over any byte stream.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::header::{HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::lifecycle::Tasks;
use crate::transport::pool::Cut;
use crate::transport::{ByteStream, DialError};

/// What a body may fail with.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// A request or response body on its way through the agent.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// An HTTP/1.1 connection: one request at a time.
pub type H1Sender = http1::SendRequest<Body>;

/// An HTTP/2 connection: clones share it.
pub type H2Sender = http2::SendRequest<Body>;

/// Starts HTTP/1.1 on `stream`; a task drives the connection until either side ends it.
///
/// Ends what is under way too when a certificate of the stream is revoked, or `cut` asks for it, until the connection
/// changes protocol.
pub async fn start_h1(tasks: &Tasks, stream: Box<dyn ByteStream>, cut: Cut) -> Result<H1Sender, DialError> {
    let revoked = stream.revoked();
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD_BYTES)
        .handshake::<_, Body>(TokioIo::new(stream))
        .await
        .map_err(DialError::Http)?;
    tasks.spawn("upstream-http1", async move {
        tokio::select! {
            ended = connection.with_upgrades() => if let Err(error) = ended {
                tracing::debug!(%error, "upstream HTTP/1.1 connection ended");
            },
            () = revoked => tracing::debug!("upstream HTTP/1.1 connection ended: a certificate was revoked"),
            () = cut.cancelled() => tracing::debug!("upstream HTTP/1.1 connection ended: its endpoint went away"),
        }
    });
    Ok(sender)
}

/// Starts HTTP/2 with prior knowledge on `stream`; a task drives the connection and pings an idle peer.
/// Ends what is under way too when a certificate of the stream is revoked, or `cut` asks for it.
pub async fn start_h2(tasks: &Tasks, stream: Box<dyn ByteStream>, cut: Cut) -> Result<H2Sender, DialError> {
    let revoked = stream.revoked();
    let ended = async move {
        tokio::select! {
            () = revoked => tracing::debug!("upstream HTTP/2 connection ended: a certificate was revoked"),
            () = cut.cancelled() => tracing::debug!("upstream HTTP/2 connection ended: its endpoint went away"),
        }
    };
    let executor = UntilEnded {
        executor: TaskExecutor(tasks.clone()),
        ended: ended.boxed().shared(),
    };
    let (sender, connection) = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake::<_, Body>(TokioIo::new(stream))
        .await
        .map_err(DialError::Http)?;
    tasks.spawn("upstream-http2", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream HTTP/2 connection ended");
        }
    });
    Ok(sender)
}

/// Says how a body of unknown length is framed where hyper would leave it out: no request of these methods has one, it
/// takes for granted, unless the head says so.
pub fn frame_for_h1(request: &mut Request<Body>) {
    let seldom_has_body = [Method::GET, Method::HEAD, Method::CONNECT].contains(request.method());
    let body = request.body();
    if seldom_has_body && !body.is_end_stream() && body.size_hint().exact().is_none() {
        let headers = request.headers_mut();
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Lets hyper start its tasks as named, joined ones.
#[derive(Debug, Clone)]
pub struct TaskExecutor(pub Tasks);

impl<F> Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("http2-stream", future);
    }
}

/// Hyper gives the stream itself to a task, which outlives the connection's future as long as something is under way: it
/// is this task that must end.
#[derive(Clone)]
struct UntilEnded {
    executor: TaskExecutor,
    ended: Shared<BoxFuture<'static, ()>>,
}

impl<F> Executor<F> for UntilEnded
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let ended = self.ended.clone();
        self.executor.execute(async move {
            tokio::select! {
                () = future => {}
                () = ended => {}
            }
        });
    }
}

/// Receive window of one stream: enough for 2 Gbit/s at 1 ms, or 20 at the 0.1 ms of one rack.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of a connection: what one peer can make the agent hold. Room for every stream that the pool puts on
/// one connection, so that readers who stand still never stop their neighbours.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW * POOLED_STREAMS;
/// Streams on one pooled connection before another is opened; below every common server's limit (100).
pub const POOLED_STREAMS: u32 = 96;
/// Longest head of a request or response over HTTP/2, the same on every hop, so that what one agent takes the next one
/// does not refuse; Envoy's default is 60 KiB, gRPC's 8.
pub const MAX_HEAD: u32 = 64 * 1024;
/// The same over HTTP/1.1.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
