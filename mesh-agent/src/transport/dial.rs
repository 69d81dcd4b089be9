//! Connections from a pod's own address, opened inside its network namespace.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpRepair;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::lifecycle::LaneStream;
use crate::pod::netns::Netns;
use crate::transport::{ByteStream, DialError, never};

/// From where a connection is dialled.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The namespace of the pod in whose name it is made.
    pub netns: &'a Netns,
    /// The end that the other side shall see: that of the application's own socket. `None` where several applications
    /// share the connection.
    pub own_end: Option<SocketAddr>,
}

/// Connects to `addr` from `origin`, from the application's own port where the kernel grants it a second time,
/// otherwise from any; the source address is the pod's in any case.
///
/// Cancel-safe: dropping the future closes the socket.
pub async fn dial(origin: Origin<'_>, addr: SocketAddr, limit: Duration) -> Result<LaneStream, DialError> {
    let own_end = origin.own_end.filter(|end| end.is_ipv4() == addr.is_ipv4());
    if let Some(end) = own_end {
        match open_at(origin.netns, end, addr) {
            Ok(socket) => match connect(socket, addr, limit).await {
                // An earlier connection between the same two ends is not quite over.
                Err(DialError::Connect(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                dialled => return dialled,
            },
            Err(error) => tracing::debug!(%error, %end, "the application's own port cannot be shown"),
        }
    }
    let socket = open(origin.netns, addr).map_err(DialError::Socket)?;
    connect(socket, addr, limit).await
}

/// Opens a socket bound to `end`, which the application's socket has taken: the two differ in their other end.
///
/// Repair mode is how the kernel lets a port be bound that a socket without `SO_REUSEADDR` holds (`SK_FORCE_REUSE` in
/// net/ipv4/tcp.c); it needs `CAP_NET_ADMIN` in the namespace, and is over before the socket connects.
fn open_at(netns: &Netns, end: SocketAddr, addr: SocketAddr) -> io::Result<Socket> {
    let socket = open(netns, addr)?;
    setsockopt(&socket, TcpRepair, &1)?;
    socket.bind(&end.into())?;
    setsockopt(&socket, TcpRepair, &0)?;
    Ok(socket)
}

/// Connects an open socket and sets what every data socket has: no delay, keepalive.
pub(super) async fn connect(
    socket: Socket,
    addr: SocketAddr,
    limit: Duration,
) -> Result<LaneStream, DialError> {
    let socket = TcpSocket::from_std_stream(socket.into());
    let stream = timeout(limit, LaneStream::connect(socket, addr))
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

    fn proved_until(&self) -> Option<SystemTime> {
        None
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        never()
    }
}

impl ByteStream for LaneStream {
    fn reset_on_close(&self) {
        (**self).reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        (**self).proved_until()
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        (**self).revoked()
    }
}

const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// An application's connection to somebody, and where somebody else listens.
    async fn application() -> (TcpStream, TcpListener, TcpListener) {
        let (agent, server) = (listener().await, listener().await);
        let application = TcpStream::connect(agent.local_addr().unwrap()).await.unwrap();
        (application, agent, server)
    }

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    async fn dialled_as(own_end: SocketAddr, server: &TcpListener) -> (LaneStream, SocketAddr) {
        let netns = Netns::current().unwrap();
        let origin = Origin {
            netns: &netns,
            own_end: Some(own_end),
        };
        let dialled = dial(origin, server.local_addr().unwrap(), LIMIT).await.unwrap();
        (dialled, server.accept().await.unwrap().1)
    }

    #[tokio::test]
    async fn an_end_that_cannot_be_bound_is_replaced_by_any() {
        let (_application, _agent, server) = application().await;
        // TEST-NET-1: nobody's own address.
        let (_dialled, seen) = dialled_as("192.0.2.1:4000".parse().unwrap(), &server).await;
        assert_eq!(seen.ip(), server.local_addr().unwrap().ip());
    }

    #[tokio::test]
    async fn an_end_of_the_other_family_is_replaced_by_any() {
        let (_application, _agent, server) = application().await;
        let (_dialled, seen) = dialled_as("[::1]:4000".parse().unwrap(), &server).await;
        assert_eq!(seen.ip(), server.local_addr().unwrap().ip());
    }

    /// Where the process may not use repair mode, the port is another; the lab claims that it is the same.
    #[tokio::test]
    async fn a_second_connection_between_the_same_ends_comes_from_another_port() {
        let (application, agent, _server) = application().await;
        let (_accepted, own_end) = agent.accept().await.unwrap();
        assert_eq!(own_end, application.local_addr().unwrap());
        // The application itself holds this end towards this listener.
        let (_dialled, seen) = dialled_as(own_end, &agent).await;
        assert_ne!(seen.port(), own_end.port());
    }
}
