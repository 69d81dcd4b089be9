//! Connections from a pod's own address, opened inside its network namespace.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::pod::netns::Netns;
use crate::transport::{ByteStream, DialError};

/// Connects to `addr` from inside `netns`; the kernel picks the source address, which is the pod's.
///
/// Cancel-safe: dropping the future closes the socket.
pub async fn dial(netns: &Netns, addr: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
    let socket = open(netns, addr).map_err(DialError::Socket)?;
    connect(socket, addr, limit).await
}

/// Connects an open socket and sets what every data socket has: no delay, keepalive.
pub(super) async fn connect(
    socket: Socket,
    addr: SocketAddr,
    limit: Duration,
) -> Result<TcpStream, DialError> {
    let socket = TcpSocket::from_std_stream(socket.into());
    let stream = timeout(limit, socket.connect(addr))
        .await
        .map_err(|_elapsed| DialError::TimedOut)?
        .map_err(DialError::Connect)?;
    tune(&stream).map_err(DialError::Socket)?;
    Ok(stream)
}

/// Opens a non-blocking TCP socket of `addr`'s family inside `netns`.
pub(super) fn open(netns: &Netns, addr: SocketAddr) -> io::Result<Socket> {
    netns.run(|| {
        Socket::new(
            Domain::for_address(addr),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )
    })
}

/// Bytes go out at once, and a peer that vanished is noticed within a few minutes although nothing is sent.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

impl ByteStream for TcpStream {
    fn reset_on_close(&self) {
        // Fails only on a socket that is closed already, which is what is wanted.
        if let Err(error) = SockRef::from(self).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "cannot turn the close into a reset");
        }
    }
}

const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
