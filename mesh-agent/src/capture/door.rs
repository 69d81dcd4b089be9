//! One in-pod listener at work: accepts, and learns where each connection was meant to go.
//!
//! Place in the walk: the first step of a connection. Must not know: what the bytes mean, who the peer is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};

use crate::capture::Direction;
use crate::pod::LocalPod;

/// A connection that the kernel programs sent to the agent.
#[derive(Debug)]
pub struct Captured {
    /// The bytes, `TCP_NODELAY` set.
    pub stream: TcpStream,
    /// Outbound: the application's own end. Inbound: the real client. IPv4-mapped addresses are unmapped.
    pub peer: SocketAddr,
    /// Where the connection was meant to go, unmapped.
    pub original: SocketAddr,
    /// Which way it goes.
    pub direction: Direction,
}

/// What came through the door.
#[derive(Debug)]
pub enum Accepted {
    /// A captured connection.
    Captured(Captured),
    /// A connection that nobody captured; it is closed already. Worth a count.
    Stray(Stray),
}

/// Why a connection was closed as soon as it was accepted.
#[derive(Debug, thiserror::Error)]
pub enum Stray {
    /// Its original destination was never filed: somebody dialled the outbound port itself.
    #[error("no original destination for {peer}")]
    NoOriginal {
        /// Who dialled.
        peer: SocketAddr,
    },
    /// It was meant for a port of the agent: to deliver it would bring it back here.
    #[error("{peer} dialled the agent's own port {port}")]
    OwnPort {
        /// Who dialled.
        peer: SocketAddr,
        /// Which port.
        port: u16,
    },
    /// The socket died, or the flow table could not be read.
    #[error("learn the ends of a connection")]
    Unreadable(#[source] io::Error),
}

/// A listener of one pod, on the runtime.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    direction: Direction,
    pod: LocalPod,
    own_ports: Vec<u16>,
}

impl Door {
    /// Puts a non-blocking `listener` of `pod` on the current runtime. `own_ports` are the ports of all its doors.
    pub fn open(
        listener: std::net::TcpListener,
        direction: Direction,
        pod: LocalPod,
        own_ports: Vec<u16>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            direction,
            pod,
            own_ports,
        })
    }

    /// Which way the connections of this door go.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The pod that it belongs to.
    pub fn pod(&self) -> &LocalPod {
        &self.pod
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. Errors of `accept` never surface: a connection that died in the queue is skipped, and
    /// while the process is short of descriptors or memory the door waits. Cancel-safe: no accepted connection is lost.
    pub async fn accept(&self) -> Accepted {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.listener.accept().await {
                Ok((stream, peer)) => {
                    return self
                        .learn(stream, peer)
                        .map_or_else(Accepted::Stray, Accepted::Captured);
                }
                Err(error) => error,
            };
            if is_of_the_connection(&error) {
                continue;
            }
            tracing::warn!(pod = %self.pod.workload.pod_name, %error, ?pause, "accept fails, waiting");
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn learn(&self, stream: TcpStream, peer: SocketAddr) -> Result<Captured, Stray> {
        let original = match self.direction {
            // By the socket's own idea of its end, which is what the kernel program filed.
            Direction::Outbound => self
                .pod
                .flows
                .original_destination(self.pod.netns.cookie(), peer)
                .map_err(Stray::Unreadable)?
                .ok_or(Stray::NoOriginal { peer })?,
            Direction::Inbound => stream.local_addr().map_err(Stray::Unreadable)?,
        };
        let (peer, original) = (unmapped(peer), unmapped(original));
        if self.pod.workload.addrs.contains(&original.ip()) && self.own_ports.contains(&original.port()) {
            return Err(Stray::OwnPort {
                peer,
                port: original.port(),
            });
        }
        stream.set_nodelay(true).map_err(Stray::Unreadable)?;
        Ok(Captured {
            stream,
            peer,
            original,
            direction: self.direction,
        })
    }
}

fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::to_canonical(&addr.ip()), addr.port())
}

/// Errors that accept(2) passes on from the connection itself; all else is the listener's or the process's.
fn is_of_the_connection(error: &io::Error) -> bool {
    let Some(code) = error.raw_os_error() else {
        return false;
    };
    matches!(
        Errno::from_raw(code),
        Errno::ECONNABORTED
            | Errno::EINTR
            | Errno::ENETDOWN
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT
    )
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
