//! How clients are spoken to, in either version.
//!
//! Place in the walk: when a connection is found to carry HTTP. Must not know: requests.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;

use crate::lifecycle::Tasks;
use crate::proxy::http::Side;
use crate::proxy::http::connection::framing::Framed;
use crate::proxy::http::connection::half_closed::{Answers, HalfClosed};
use crate::transport::ByteStream;
use crate::transport::http::{CONNECTION_WINDOW, MAX_HEAD, STREAM_WINDOW, TaskExecutor};

/// HTTP/2 as clients are spoken to in.
pub(super) fn http2_for(tasks: Tasks) -> http2::Builder<TaskExecutor> {
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

/// A client's HTTP/1.1 as hyper may read it, and whether somebody looks out for a client that is done sending.
pub(super) fn looked_after(
    stream: Box<dyn ByteStream>,
    side: &Side,
    answers: &Arc<Answers>,
    is_other_protocol: &Arc<AtomicBool>,
) -> (bool, Box<dyn ByteStream>) {
    let stream = Framed::new(stream, Arc::clone(is_other_protocol));
    match side {
        Side::Outbound { source, ends } => {
            let (pod, client) = (source.pod.clone(), ends.client);
            let watched = HalfClosed::new(stream, pod, client, Arc::clone(answers));
            (true, Box::new(watched))
        }
        // Of others than this node's applications nobody knows whether their FIN is a goodbye.
        Side::Inbound { .. } => (false, Box::new(stream)),
    }
}

/// Streams that one HTTP/2 peer may have open. gRPC servers set no limit, and a client whose long streams fill a lower
/// one waits for ever for what works without a mesh.
const MAX_STREAMS: u32 = 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
