//! HTTP/2 with a client.
//!
//! Place in the walk: when a connection is found to carry it. Must not know: requests.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::lifecycle::{Tasks, seldom};
use crate::transport::ByteStream;
use crate::transport::http::{Body, CONNECTION_WINDOW, MAX_HEAD, STREAM_WINDOW, TaskExecutor};
use crate::transport::paced::Paced;

/// Serves it on `stream` until the client ends it; once `told`, no more streams are taken.
pub(super) async fn serve<S>(
    stream: Box<dyn ByteStream>,
    service: S,
    tasks: Tasks,
    told: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let stream = TokioIo::new(Paced::new(stream));
    let mut served = pin!(builder(tasks).serve_connection(stream, service));
    tokio::select! {
        biased;
        () = seldom(told) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        ended = served.as_mut() => ended,
    }
}

fn builder(tasks: Tasks) -> http2::Builder<TaskExecutor> {
    let mut builder = http2::Builder::new(TaskExecutor(tasks));
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .enable_connect_protocol()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Streams that one HTTP/2 peer may have open. gRPC servers set no limit, and a client whose long streams fill a lower
/// one waits for ever for what works without a mesh.
const MAX_STREAMS: u32 = 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
