//! A client's stream while hyper has it: it comes back when hyper is let go of.
//!
//! Place in the walk: between hyper and the client's HTTP/1.1. Must not know: when that is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::http::connection::progress::Progress;
use crate::transport::ByteStream;

/// Where a stream is once nobody else has it.
#[derive(Default)]
pub(super) struct Owner(Mutex<Option<Box<dyn ByteStream>>>);

/// A stream that goes back to its owner, where that still is, when it is dropped.
pub(super) struct Lent {
    /// Until it is dropped.
    stream: Option<Box<dyn ByteStream>>,
    /// What was read of it before.
    first: Bytes,
    progress: Arc<Progress>,
    owner: Weak<Owner>,
}

impl Owner {
    /// Lends `stream`, of which `first` was read before.
    pub(super) fn lend(
        self: &Arc<Self>,
        stream: Box<dyn ByteStream>,
        first: Bytes,
        progress: Arc<Progress>,
    ) -> Lent {
        Lent {
            stream: Some(stream),
            first,
            progress,
            owner: Arc::downgrade(self),
        }
    }

    /// The stream, once whoever it was lent to has dropped it.
    pub(super) fn take(&self) -> Option<Box<dyn ByteStream>> {
        self.0.lock().take()
    }
}

impl Lent {
    fn stream(&mut self) -> io::Result<Pin<&mut Box<dyn ByteStream>>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            *owner.0.lock() = self.stream.take();
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let taken = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(taken));
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.progress.note_written(true);
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream()?.poll_flush(cx))?;
        self.progress.note_written(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.progress.note_written(true);
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
