//! Listening sockets inside a pod's network namespace.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, BorrowedFd};

use mesh_common::layout::{INBOUND_PORT, OUTBOUND_PORT};
use socket2::{Domain, Protocol, Socket, Type};

use crate::capture::Direction;
use crate::pod::LocalPod;
use crate::pod::netns::Netns;

/// Which ports the listeners take; tests take free ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Where the connect hooks send what the pod dials.
    pub outbound: u16,
    /// Where the sockets listen that inbound connections are steered to.
    pub inbound: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            outbound: OUTBOUND_PORT,
            inbound: INBOUND_PORT,
        }
    }
}

/// All listening sockets of one pod: one for each direction and address.
#[derive(Debug)]
pub struct PodListeners(Vec<PodListener>);

impl PodListeners {
    /// Opens them inside the pod's namespace.
    ///
    /// Errors: the pod has no address, an address is not there (yet), or a port is taken.
    pub fn open(pod: &LocalPod) -> io::Result<Self> {
        Self::open_at(pod, Ports::default())
    }

    /// As [`PodListeners::open`], on chosen ports.
    pub fn open_at(pod: &LocalPod, ports: Ports) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for addr in &pod.workload.addrs {
            for (direction, port) in [
                (Direction::Outbound, ports.outbound),
                (Direction::Inbound, ports.inbound),
            ] {
                let socket = open_one(&pod.netns, SocketAddr::new(*addr, port))?;
                listeners.push(PodListener {
                    direction,
                    addr: *addr,
                    socket,
                });
            }
        }
        if listeners.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the pod has no address yet",
            ));
        }
        Ok(Self(listeners))
    }

    /// The sockets that inbound connections are steered to, by pod address.
    pub fn inbound(&self) -> impl Iterator<Item = (IpAddr, &PodListener)> {
        self.0
            .iter()
            .filter(|listener| listener.direction == Direction::Inbound)
            .map(|listener| (listener.addr, listener))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &PodListener> {
        self.0.iter()
    }
}

impl IntoIterator for PodListeners {
    type Item = PodListener;
    type IntoIter = std::vec::IntoIter<PodListener>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// One listening socket inside a pod; not yet bound to a runtime.
#[derive(Debug)]
pub struct PodListener {
    pub(super) direction: Direction,
    pub(super) addr: IpAddr,
    pub(super) socket: StdListener,
}

impl PodListener {
    /// Which way its connections go.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl AsFd for PodListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open_one(netns: &Netns, addr: SocketAddr) -> io::Result<StdListener> {
    netns.run(|| {
        let socket = Socket::new(
            Domain::for_address(addr),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into()).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot listen on {addr} in the pod: {error}"),
            )
        })?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    })
}

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
