//! Delivery into a pod: the application sees the true client, although the agent connects from inside the pod.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pod::LocalPod;
use crate::pod::flows::FlowTable;
use crate::pod::netns::NetnsCookie;
use crate::transport::dial::{connect, open};
use crate::transport::leg::Leg;
use crate::transport::{ByteStream, DialError};

/// Connects to the application of `pod` at `to`, an address of the pod, as if `client` had.
///
/// The socket is bound first, the true client is filed under the bound end, then it connects: the hooks find
/// the entry however early the application calls `accept`. Cancel-safe.
pub async fn deliver(
    pod: &LocalPod,
    to: SocketAddr,
    client: SocketAddr,
    limit: Duration,
) -> Result<Delivery, DialError> {
    let socket = open(&pod.netns, to).map_err(DialError::Socket)?;
    let from = SocketAddr::new(to.ip(), 0);
    socket.bind(&from.into()).map_err(DialError::Socket)?;
    let bound = socket
        .local_addr()
        .map_err(DialError::Socket)?
        .as_socket()
        .ok_or_else(|| {
            DialError::Socket(io::Error::new(
                io::ErrorKind::InvalidData,
                "the bound socket has no address",
            ))
        })?;
    let filed = TruePeer::file(Arc::clone(&pod.flows), pod.netns.cookie(), bound, client)
        .map_err(DialError::Socket)?;
    let stream = connect(socket, to, limit).await?;
    Ok(Delivery {
        _filed: filed,
        stream: Leg::over_tcp(stream),
    })
}

/// A connection to an application, with what the kernel must remember of it for as long.
#[derive(Debug)]
pub struct Delivery {
    /// Dropped first, while the port is still taken: afterwards it may be another delivery's, with its own entry.
    _filed: TruePeer,
    stream: Leg,
}

impl Delivery {
    /// The same when its bytes are relayed unread: they may be spliced. `to` is where it was delivered in `pod`.
    #[must_use]
    pub fn relayed(self, pod: &LocalPod, to: SocketAddr) -> Self {
        Self {
            stream: self.stream.relayed(pod, to),
            ..self
        }
    }
}

impl ByteStream for Delivery {
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

impl AsyncRead for Delivery {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Delivery {
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

/// An entry of the flow table that is taken back when dropped.
#[derive(Debug)]
struct TruePeer {
    flows: Arc<dyn FlowTable>,
    netns: NetnsCookie,
    bound: SocketAddr,
}

impl TruePeer {
    fn file(
        flows: Arc<dyn FlowTable>,
        netns: NetnsCookie,
        bound: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<Self> {
        flows.file_true_peer(netns, bound, client)?;
        Ok(Self { flows, netns, bound })
    }
}

impl Drop for TruePeer {
    fn drop(&mut self) {
        if let Err(error) = self.flows.forget_true_peer(self.netns, self.bound) {
            tracing::warn!(%error, bound = %self.bound, "cannot forget the true peer of a delivered connection");
        }
    }
}
