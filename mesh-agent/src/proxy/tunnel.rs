//! Connections through a forward proxy: it is asked with HTTP's CONNECT for the one that is wanted.
//!
//! Place in the walk: what a connection that is no HTTP begins with at its endpoint, inside of TLS if it is spoken to so. Must
//! not know: which policy asked for it.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::HOST;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::detect::Prefixed;
use crate::mesh::tunnel::TunnelTarget;
use crate::proxy::backend::Connecting;
use crate::transport::{ByteStream, DialError};

/// `connecting`, and on it the tunnel to `target` if there is one, which must stand within `limit`.
pub(super) fn through(target: Option<&TunnelTarget>, limit: Duration, connecting: Connecting) -> Connecting {
    let Some(target) = target.cloned() else {
        return connecting;
    };
    Box::pin(async move {
        let asked = timeout(limit, ask(connecting.await?, &target)).await;
        asked.map_err(|_elapsed| DialError::TimedOut)?
    })
}

/// Cancel-safe: the connection is closed.
async fn ask(stream: Box<dyn ByteStream>, target: &TunnelTarget) -> Result<Box<dyn ByteStream>, DialError> {
    let handshake = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(DialError::Http)?;
    let answer = pin!(sender.send_request(connect(target)));
    // The connection ends where an answer that grants it does, and leaves what the other end has said since. It does not end
    // with one that refuses, whose body nobody reads.
    let left = match select(answer, pin!(connection.without_shutdown())).await {
        Either::Left((answer, connection)) => {
            granted(answer)?;
            connection.await
        }
        Either::Right((ended, answer)) => {
            granted(answer.await)?;
            ended
        }
    };
    let left = left.map_err(DialError::Http)?;
    Ok(Box::new(Prefixed::new(left.read_buf, left.io.into_inner())))
}

fn granted(answer: Result<Response<Incoming>, hyper::Error>) -> Result<(), DialError> {
    let status = answer.map_err(DialError::Http)?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(DialError::NoTunnel(status))
    }
}

fn connect(target: &TunnelTarget) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from(target.clone());
    // An authority is a value of a header in any case.
    let host = HeaderValue::from_str(target.as_str()).ok();
    request.headers_mut().extend(host.map(|host| (HOST, host)));
    request
}

/// What a forward proxy may say at most before the bytes of the tunnel: hyper's least.
const MAX_HEAD: usize = 8 * 1024;
