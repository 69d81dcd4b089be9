//! mTLS between agents, on the destination's own address and original port.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::identity::{Alpn, Revocations, Shown, WorkloadTls, peer_identity, peer_not_after};
use crate::lifecycle::LaneStream;
use crate::mesh::identity::SpiffeId;
use crate::transport::dial::{Origin, dial};
use crate::transport::handshakes::Workshop;
use crate::transport::{ByteStream, DialError, never};

/// A TLS stream to the agent of another pod.
#[derive(Debug)]
pub struct ClientStream {
    tls: client::TlsStream<LaneStream>,
    proved_until: SystemTime,
    shown: Shown,
    revocations: Revocations,
}

/// A TLS stream from the agent of another pod, on the stream `S` that it came on.
pub type ServerStream<S> = server::TlsStream<S>;

/// Who to be and whom to expect.
#[derive(Debug)]
pub struct MeshPeer<'a> {
    /// The source pod's certificate and keys.
    pub ours: &'a WorkloadTls,
    /// The identity that discovery gives for the destination pod.
    pub expected: &'a SpiffeId,
    /// What will be spoken inside.
    pub alpn: Alpn,
    /// What ends the connection when it names a certificate of either end.
    pub revocations: Revocations,
    /// Where the handshake is computed.
    pub workshop: &'a Workshop,
}

/// Dials `addr` from `origin` and speaks mTLS with the agent there; both steps have the time of `limit`.
///
/// Fails unless the peer proves `expected` and agrees on the protocol. Cancel-safe.
pub async fn connect(
    origin: Origin<'_>,
    addr: SocketAddr,
    peer: MeshPeer<'_>,
    limit: Duration,
) -> Result<ClientStream, DialError> {
    let stream = dial(origin, addr, limit).await?;
    let connector = TlsConnector::from(
        peer.ours
            .client(peer.expected, peer.alpn)
            .map_err(DialError::Tls)?,
    );
    let handshake = connector.connect(ServerName::IpAddress(addr.ip().into()), stream);
    let tls = at(peer.workshop, handshake, limit)
        .await
        .map_err(DialError::Handshake)?;
    // TLS itself looks at a certificate's dates and name only in a full handshake, not when a session is resumed.
    let proved = peer_identity(tls.get_ref().1.peer_certificates())
        .map_err(|error| DialError::Handshake(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    if peer.ours.is_same(&proved, peer.expected)
        && tls.get_ref().1.alpn_protocol() == Some(peer.alpn.as_bytes())
    {
        let theirs = peer_not_after(tls.get_ref().1.peer_certificates());
        let ours = peer.ours.not_after();
        return Ok(ClientStream {
            proved_until: theirs.map_or(ours, |theirs| theirs.min(ours)),
            shown: peer.ours.shown_with(tls.get_ref().1.peer_certificates()),
            revocations: peer.revocations,
            tls,
        });
    }
    Err(DialError::Handshake(io::Error::new(
        io::ErrorKind::InvalidData,
        "the peer agreed on no protocol of the mesh, or is another than expected",
    )))
}

/// Accepts mTLS on a connection whose ClientHello was seen, within `limit`; returns who the peer proved to be, and by
/// what. The handshake is computed at `workshop`.
pub async fn accept<S: ByteStream + 'static>(
    ours: &WorkloadTls,
    stream: S,
    workshop: &Workshop,
    limit: Duration,
) -> io::Result<(ServerStream<S>, SpiffeId, Shown)> {
    let acceptor = TlsAcceptor::from(ours.server());
    let tls = at(workshop, acceptor.accept(stream), limit).await?;
    let peer = peer_identity(tls.get_ref().1.peer_certificates())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let shown = ours.shown_with(tls.get_ref().1.peer_certificates());
    Ok((tls, peer, shown))
}

/// Computes `handshake` at `workshop`, within `limit`.
pub(super) async fn at<T: Send + 'static>(
    workshop: &Workshop,
    handshake: impl Future<Output = io::Result<T>> + Send + 'static,
    limit: Duration,
) -> io::Result<T> {
    let computed = timeout(limit, workshop.run(handshake)).await;
    computed
        .map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "handshake timed out"))?
        .unwrap_or_else(|| Err(io::Error::other("the handshake was given up")))
}

impl ByteStream for ClientStream {
    fn reset_on_close(&self) {
        self.tls.get_ref().0.reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        Some(self.proved_until)
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.revocations.clone().revoked(self.shown.clone()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl<S: ByteStream> ByteStream for ServerStream<S> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }

    /// Whoever accepts is told with the identity what was shown, and watches that.
    fn proved_until(&self) -> Option<SystemTime> {
        None
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        never()
    }
}
