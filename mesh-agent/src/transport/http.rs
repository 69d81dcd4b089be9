//! HTTP client connections over any byte stream.

use std::error::Error;
use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, select};
use http::header::{HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::lifecycle::{Tasks, seldom};
use crate::transport::announced::{Announced, Greeted, Said};
use crate::transport::gathered::Gathered;
use crate::transport::paced::Paced;
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

/// The body of a message without one.
pub fn no_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Starts HTTP/1.1 on `stream`; a task drives the connection until either side ends it.
///
/// Ends what is under way too when a certificate of the stream is revoked, or `cut` asks for it, until the connection
/// changes protocol.
pub async fn start_h1(tasks: &Tasks, stream: Box<dyn ByteStream>, cut: Cut) -> Result<H1Sender, DialError> {
    let revoked = stream.revoked();
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_header_size(MAX_HEAD_BYTES)
        .handshake::<_, Body>(TokioIo::new(Gathered::new(stream)))
        .await
        .map_err(DialError::Http)?;
    tasks.spawn("upstream-http1", async move {
        tokio::select! {
            ended = connection.with_upgrades() => if let Err(error) = ended {
                tracing::debug!(%error, "upstream HTTP/1.1 connection ended");
            },
            () = seldom(over(revoked, cut)) => {}
        }
    });
    Ok(sender)
}

/// Starts HTTP/2 with prior knowledge on `stream`; a task drives the connection and pings an idle peer.
/// Ends what is under way too when a certificate of the stream is revoked, or `cut` asks for it.
pub async fn start_h2(tasks: &Tasks, stream: Box<dyn ByteStream>, cut: Cut) -> Result<H2Sender, DialError> {
    let ended = over(stream.revoked(), cut).boxed();
    start_h2_until(tasks, stream, ended).await
}

/// As [`start_h2`], with a server of which is not known how many streams it takes: waits for it to say so, which it
/// does at once. Returns how many it takes at a time.
pub(super) async fn start_h2_asking(
    tasks: &Tasks,
    stream: Box<dyn ByteStream>,
    cut: Cut,
) -> Result<(H2Sender, u32), DialError> {
    let ended = over(stream.revoked(), cut).boxed();
    let (stream, mut announcement) = Greeted::new(stream);
    let sender = start_h2_until(tasks, Box::new(stream), ended).await?;
    match timeout(SETTINGS_PATIENCE, announcement.said()).await {
        Ok(Said::Settings(Announced { streams, .. })) => Ok((sender, streams.unwrap_or(u32::MAX))),
        Ok(Said::SomethingElse) => Err(DialError::NotHttp2),
        Ok(Said::Nothing) => Err(DialError::Connect(ErrorKind::UnexpectedEof.into())),
        // Perhaps it speaks when it is asked.
        Err(_elapsed) => Ok((sender, u32::MAX)),
    }
}

/// As [`start_h2`], where the server says that it takes extended CONNECT (RFC 8441). One that does not, or speaks no
/// HTTP/2, is hung up on: the connection is closed when this returns.
pub async fn start_extended(
    tasks: &Tasks,
    stream: Box<dyn ByteStream>,
    cut: Cut,
) -> Result<Option<H2Sender>, DialError> {
    let over = over(stream.revoked(), cut);
    let (stream, mut announcement) = Greeted::new(stream);
    let (hang_up, hung_up) = oneshot::channel::<()>();
    let ended = async move {
        let hung_up = async {
            // Gone without a word is no wish to hang up.
            if hung_up.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = over => {}
            () = hung_up => {}
        }
    };
    let sender = start_h2_until(tasks, Box::new(stream), ended.boxed()).await?;
    let said = timeout(SETTINGS_PATIENCE, announcement.said()).await;
    let is_taken = match said {
        Ok(Said::Settings(announced)) => announced.takes_extended,
        Ok(Said::SomethingElse | Said::Nothing) | Err(_) => false,
    };
    if is_taken {
        return Ok(Some(sender));
    }
    // It may have ended by itself.
    let _ended = hang_up.send(());
    drop(sender);
    announcement.closed().await;
    Ok(None)
}

/// Completes when a connection must end whatever is under way on it.
async fn over(revoked: BoxFuture<'static, ()>, cut: Cut) {
    tokio::select! {
        () = revoked => tracing::debug!("upstream connection ended: a certificate was revoked"),
        () = cut.cancelled() => tracing::debug!("upstream connection ended: its endpoint went away"),
    }
}

async fn start_h2_until(
    tasks: &Tasks,
    stream: Box<dyn ByteStream>,
    ended: BoxFuture<'static, ()>,
) -> Result<H2Sender, DialError> {
    let executor = Until {
        executor: TaskExecutor(tasks.clone()),
        ended: ended.shared(),
    };
    let (sender, connection) = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake::<_, Body>(TokioIo::new(Paced::new(stream)))
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
struct Until {
    executor: TaskExecutor,
    /// When a certificate is revoked, mostly.
    ended: Shared<BoxFuture<'static, ()>>,
}

impl<F> Executor<F> for Until
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let ended = seldom(self.ended.clone());
        self.executor
            .execute(select(Box::pin(future), ended).map(|_first| ()));
    }
}

/// Receive window of one stream: enough for 2 Gbit/s at 1 ms, or 20 at the 0.1 ms of one rack.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of a connection: what one peer can make the agent hold. Room for every stream that the pool puts on
/// one connection, so that readers who stand still never stop their neighbours.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW * POOLED_STREAMS;
/// Streams on one pooled connection before another is opened; below every common server's limit (100).
pub const POOLED_STREAMS: u32 = 96;
/// What is read of an HTTP/1.1 connection at once, and may wait to be written to it: a head of the longest fits.
pub const H1_BUFFER: u32 = 64 * 1024;
/// Longest head of a request or response over HTTP/2, the same on every hop, so that what one agent takes the next one
/// does not refuse; Envoy's default is 60 KiB, gRPC's 8.
pub const MAX_HEAD: u32 = 64 * 1024;
/// The same over HTTP/1.1.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long a server may take to say what it takes (RFC 9113 section 3.4: the first thing that it sends).
const SETTINGS_PATIENCE: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
