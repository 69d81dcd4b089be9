//! A TCP stream that goes where its task goes.
//!
//! Place in the walk: what is accepted and what is dialled for pods. Must not know: what its bytes mean, why a task moved.
//!
//! A stream is woken by the driver that it is registered with. Once its task runs elsewhere, each of its events would wake two
//! threads: the driver's, and through it the task's.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::lanes::{Home, here};

/// Registered with the driver of the threads on which it is read and written. Both must be polled by one task.
#[derive(Debug)]
pub struct LaneStream {
    stream: TcpStream,
    /// Where it is registered, or where that failed; `None` where its first task was of no lane.
    home: Option<Home>,
}

impl LaneStream {
    /// Connects `socket` to `addr`.
    ///
    /// Errors: what connect(2) says. Cancel-safe: the socket is closed.
    pub async fn connect(socket: TcpSocket, addr: SocketAddr) -> io::Result<Self> {
        // It is registered before it waits, and may have moved when it is there.
        let home = here();
        let stream = socket.connect(addr).await?;
        Ok(Self { stream, home })
    }

    /// Before it is read or written.
    fn settle(&mut self, cx: &Context<'_>) {
        let here = here();
        if here.is_some() && here != self.home {
            self.move_to(here, cx);
        }
    }

    #[cold]
    fn move_to(&mut self, here: Option<Home>, cx: &Context<'_>) {
        self.home = here;
        match registered_here(&self.stream) {
            Ok(stream) => {
                self.stream = stream;
                // Whatever else the task waited for on this stream, it waits for at the old driver.
                cx.waker().wake_by_ref();
            }
            Err(error) => tracing::debug!(%error, "a stream is woken by threads that its pod has left"),
        }
    }
}

/// The same socket by another descriptor, as a descriptor cannot be registered twice and must not be lost if that fails.
fn registered_here(stream: &TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(StdStream::from(stream.as_fd().try_clone_to_owned()?))
}

impl From<TcpStream> for LaneStream {
    fn from(stream: TcpStream) -> Self {
        Self { stream, home: here() }
    }
}

impl Deref for LaneStream {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for LaneStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.settle(cx);
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.settle(cx);
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
        self.settle(cx);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[path = "lane_stream_tests.rs"]
mod tests;
