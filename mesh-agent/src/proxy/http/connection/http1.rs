//! HTTP/1.1 with a client. hyper keeps two buffers and a parser for each connection, most of what a connection costs: it is let
//! go of while no request comes, and begins anew with the next one.
//!
//! Place in the walk: when a connection is found to carry it. Must not know: requests.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::lifecycle::{Stop, seldom};
use crate::proxy::departing::let_go;
use crate::proxy::http::Side;
use crate::proxy::http::connection::framing::Framed;
use crate::proxy::http::connection::half_closed::{Answers, HalfClosed};
use crate::proxy::http::connection::head_timer::{HeadTimer, REST};
use crate::proxy::http::connection::lent::Owner;
use crate::proxy::http::connection::progress::Progress;
use crate::transport::ByteStream;
use crate::transport::gathered::Gathered;
use crate::transport::http::{Body, MAX_HEAD_BYTES};

/// One connection.
pub(super) struct Http1 {
    stream: Box<dyn ByteStream>,
    terms: Terms,
}

/// How it is served.
struct Terms {
    progress: Arc<Progress>,
    /// Whether somebody looks out for a client that is done sending.
    is_watched: bool,
    /// How long it may take until the head of a next request is there.
    idle: Duration,
}

impl Http1 {
    /// That of a client which `side` tells of.
    pub(super) fn of(
        stream: Box<dyn ByteStream>,
        side: &Side,
        answers: &Arc<Answers>,
        progress: &Arc<Progress>,
        idle: Duration,
    ) -> Self {
        let stream = Framed::new(stream, Arc::clone(progress));
        let (is_watched, stream): (_, Box<dyn ByteStream>) = match side {
            Side::Outbound { source, ends } => {
                let (pod, client) = (source.pod.clone(), ends.client);
                let watched = HalfClosed::new(stream, pod, client, Arc::clone(answers));
                (true, Box::new(watched))
            }
            // Of others than this node's applications nobody knows whether their FIN is a goodbye.
            Side::Inbound { .. } => (false, Box::new(stream)),
        };
        let progress = Arc::clone(progress);
        Self {
            stream,
            terms: Terms {
                progress,
                is_watched,
                idle,
            },
        }
    }

    /// Serves it until the client ends it, or soon after `stop` once no request is under way.
    pub(super) async fn serve<S>(self, service: S, stop: Stop) -> hyper::Result<()>
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone,
    {
        let Self { mut stream, terms } = self;
        let mut let_go = seldom(let_go(stop));
        let mut first = Bytes::new();
        loop {
            let served = Box::pin(terms.requests(stream, first, service.clone(), &mut let_go));
            let Some(resting) = served.await? else {
                return Ok(());
            };
            stream = resting;
            match terms.next(&mut stream, &mut let_go).await {
                Ok(bytes) if !bytes.is_empty() => first = bytes,
                Ok(_nothing) => {
                    end(stream).await;
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(%error, "client connection ended while no request was under way");
                    return Ok(());
                }
            }
        }
    }
}

impl Terms {
    /// Serves requests of `stream`, of which `first` was read before, until none has come for a while: then the stream
    /// is given back.
    async fn requests<S>(
        &self,
        stream: Box<dyn ByteStream>,
        first: Bytes,
        service: S,
        let_go: &mut (impl Future<Output = ()> + Unpin),
    ) -> hyper::Result<Option<Box<dyn ByteStream>>>
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    {
        let timer = HeadTimer::new(self.idle);
        let mut builder = http1::Builder::new();
        builder
            .timer(timer.clone())
            .auto_date_header(false)
            .half_close(self.is_watched)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_header_size(MAX_HEAD_BYTES)
            .header_read_timeout(self.idle);
        let owner = Arc::<Owner>::default();
        let lent = owner.lend(stream, first, Arc::clone(&self.progress));
        let lent = TokioIo::new(Gathered::new(lent));
        let mut served = Box::pin(builder.serve_connection(lent, service).with_upgrades());
        let until_rest = poll_fn(|cx| match served.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if timer.is_resting() && self.progress.is_even() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        let ended = tokio::select! {
            // First, so that no answer that comes afterwards is given without saying so.
            biased;
            () = let_go => {
                served.as_mut().graceful_shutdown();
                Some(served.as_mut().await)
            }
            ended = until_rest => ended,
        };
        if let Some(ended) = ended {
            return ended.map(|()| None);
        }
        drop(served);
        Ok(owner.take())
    }

    /// What the client sends after a rest; nothing when it is done, when its time is over, or when it is let go.
    async fn next(
        &self,
        stream: &mut Box<dyn ByteStream>,
        let_go: &mut (impl Future<Output = ()> + Unpin),
    ) -> io::Result<Bytes> {
        let left = self.idle.saturating_sub(REST);
        tokio::select! {
            biased;
            () = let_go => Ok(Bytes::new()),
            read = timeout(left, next_bytes(stream)) => read.unwrap_or_else(|_elapsed| Ok(Bytes::new())),
        }
    }
}

/// What the client sends next; nothing when it is done. Cancel-safe.
async fn next_bytes(stream: &mut Box<dyn ByteStream>) -> io::Result<Bytes> {
    poll_fn(|cx| {
        let mut room = [0; AT_FIRST];
        let mut buf = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buf.filled())))
    })
    .await
}

async fn end(mut stream: Box<dyn ByteStream>) {
    if let Err(error) = stream.shutdown().await {
        tracing::debug!(%error, "client connection was ended by its client");
    }
}

/// What is read of a request before hyper is there for it: most heads.
const AT_FIRST: usize = 1024;

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
