//! Connections that carry HTTP, under the limits of their upstream.
//!
//! Place in the walk: between the pool, which asks for a connection, and the hop, which makes it. Must not know: which
//! limits there are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::balance::{Breakers, Limit, Slot};
use crate::transport::{ByteStream, DialError};

/// Makes `connect` ask first: for room among what waits for a connection, and among the connections, which is held for
/// as long as the connection lives.
pub(super) fn limited(
    breakers: Option<&Breakers>,
    connect: impl Fn() -> Connecting + Send + Sync,
) -> impl Fn() -> Connecting + Send + Sync {
    move || {
        let Some(breakers) = breakers else {
            return connect();
        };
        let slots = (breakers.take(Limit::Pending), breakers.take(Limit::Connections));
        let (Some(pending), Some(connection)) = slots else {
            return Box::pin(async { Err(DialError::Overflow) });
        };
        let connecting = connect();
        Box::pin(async move {
            let stream = connecting.await?;
            drop(pending);
            let stream: Box<dyn ByteStream> = Box::new(Counted {
                stream,
                _slot: connection,
            });
            Ok(stream)
        })
    }
}

/// A connection that is being opened.
type Connecting = BoxFuture<'static, Result<Box<dyn ByteStream>, DialError>>;

/// A connection that is counted while it lives.
struct Counted {
    stream: Box<dyn ByteStream>,
    _slot: Slot,
}

impl ByteStream for Counted {
    fn reset_on_close(&self) {
        self.stream.reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        self.stream.proved_until()
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        self.stream.revoked()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
