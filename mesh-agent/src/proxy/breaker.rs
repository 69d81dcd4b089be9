//! Connections that carry HTTP, under the limits of their upstream.
//!
//! Place in the walk: between the pool, which asks for a connection, and the hop, which makes it. Must not know: which
//! limits there are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::balance::{Breakers, Limit, Slot};
use crate::transport::{ByteStream, DialError};

/// Makes `connect` ask first: for room among what waits for a connection, and among the connections, which is held for
/// as long as the connection lives. It waits no longer than the limits say.
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
        let (connecting, limit) = (connect(), breakers.limits().connect_timeout);
        Box::pin(async move {
            let stream = within(limit, connecting).await?;
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

/// Waits for a connection at most so long.
pub(super) async fn within<S>(
    limit: Option<Duration>,
    connecting: impl Future<Output = Result<S, DialError>>,
) -> Result<S, DialError> {
    match limit {
        Some(limit) => timeout(limit, connecting)
            .await
            .unwrap_or(Err(DialError::TimedOut)),
        None => connecting.await,
    }
}

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mesh::traffic::Limits;

    async fn late() -> Result<Box<dyn ByteStream>, DialError> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Err(DialError::NoCertificate)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_waited_for_no_longer_than_its_policy_says() {
        for (seconds, is_late) in [(Some(1), true), (Some(3), false), (None, false)] {
            let limits = Limits {
                connect_timeout: seconds.map(Duration::from_secs),
                connections: Some(1),
                ..Limits::default()
            };
            let breakers = Breakers::new(Arc::default(), limits);
            let connect = limited(Some(&breakers), || Box::pin(late()));
            let error = connect().await.map(drop).unwrap_err();
            assert_eq!(matches!(error, DialError::TimedOut), is_late, "{seconds:?}");
            assert_eq!(breakers.vitals().under_way(Limit::Connections), 0);
        }
    }
}
