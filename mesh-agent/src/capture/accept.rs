//! Accepting captured connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::capture::PodListener;
use crate::pod::flows::FlowTable;
use crate::pod::netns::NetnsCookie;

/// Which way a connection goes, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The pod's application dialled.
    Outbound,
    /// Somebody dialled the pod.
    Inbound,
}

/// A connection that the kernel handed over.
#[derive(Debug)]
pub struct Captured {
    /// The bytes.
    pub stream: TcpStream,
    /// The application's end (outbound) or the remote client's (inbound).
    pub peer: SocketAddr,
    /// Where it wanted to go.
    pub original: SocketAddr,
    /// Which way.
    pub direction: Direction,
}

/// Accepts on one listener; lives on the runtime that made it.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    direction: Direction,
}

impl PodListener {
    /// Binds the socket to the current runtime. Errors: outside a runtime, or out of descriptors.
    pub fn into_acceptor(self) -> io::Result<Acceptor> {
        Ok(Acceptor {
            listener: TcpListener::from_std(self.socket)?,
            direction: self.direction,
        })
    }
}

impl Acceptor {
    /// Waits for the next connection whose destination is known.
    ///
    /// What nobody captured (someone dialled the port itself) is reset. Errors never end the loop: those of one
    /// connection are skipped, a lack of descriptors is waited out. Cancel-safe.
    pub async fn accept(&self, flows: &dyn FlowTable, netns: NetnsCookie) -> Captured {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => match self.identify(&stream, peer, flows, netns) {
                    Ok(Some((peer, original))) => {
                        return Captured {
                            stream,
                            peer,
                            original,
                            direction: self.direction,
                        };
                    }
                    Ok(None) => {
                        tracing::debug!(%peer, "connection to the agent's own port was not captured");
                        reset(&stream);
                    }
                    Err(error) => {
                        tracing::warn!(%error, %peer, "cannot find where a captured connection wants to go");
                        reset(&stream);
                    }
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(OUT_OF_RESOURCES).await;
                }
            }
        }
    }

    fn identify(
        &self,
        stream: &TcpStream,
        peer: SocketAddr,
        flows: &dyn FlowTable,
        netns: NetnsCookie,
    ) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        stream.set_nodelay(true)?;
        let peer = unmapped(peer);
        let original = match self.direction {
            Direction::Outbound => flows.original_destination(netns, peer)?.map(unmapped),
            Direction::Inbound => Some(unmapped(stream.local_addr()?)),
        };
        Ok(original.map(|original| (peer, original)))
    }
}

/// An IPv4-mapped IPv6 address is an IPv4 address.
fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn reset(stream: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset a connection");
    }
}

/// `accept(2)`: errors that belong to the connection that was about to be accepted, not to the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    )
}

const OUT_OF_RESOURCES: Duration = Duration::from_millis(50);
