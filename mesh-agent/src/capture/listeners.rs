//! The listening sockets of one pod, opened inside its network namespace.
//!
//! Place in the walk: before the first connection. Must not know: how connections get here.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use mesh_common::dns::FIRST_DNS_LISTENER;
use mesh_common::layout::{
    AGENTS_PORTS, INBOUND_PORT, OUTBOUND_PORT, SPARE_INBOUND_PORT, SPARE_OUTBOUND_PORT,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::capture::Direction;
use crate::capture::door::Door;
use crate::pod::LocalPod;

/// The ports of the in-pod listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodPorts {
    /// Where captured connects go.
    pub outbound: u16,
    /// Where steered connections would go by port; the steering itself does not look at it.
    pub inbound: u16,
    /// Where captured DNS goes: the first port of several.
    pub dns: u16,
    /// The first two while another agent of this node has those still; `None` where there is no other.
    pub spare: Option<[u16; 2]>,
}

impl PodPorts {
    /// Any free port: for tests without kernel programs.
    pub const ANY: Self = Self {
        outbound: 0,
        inbound: 0,
        dns: 0,
        spare: None,
    };
}

impl Default for PodPorts {
    /// The ports that the kernel programs know.
    fn default() -> Self {
        Self {
            outbound: OUTBOUND_PORT,
            inbound: INBOUND_PORT,
            dns: FIRST_DNS_LISTENER,
            spare: Some([SPARE_OUTBOUND_PORT, SPARE_INBOUND_PORT]),
        }
    }
}

/// One outbound and one inbound listener for each address of a pod.
#[derive(Debug)]
pub struct PodListeners {
    outbound: Vec<Bound>,
    inbound: Vec<Bound>,
}

#[derive(Debug)]
struct Bound {
    addr: SocketAddr,
    listener: TcpListener,
}

impl PodListeners {
    /// Opens them in the pod's namespace, on the spare ports where the others are taken. Errors: an address is not (yet) the
    /// namespace's, or both ports are taken.
    pub fn open(pod: &LocalPod, ports: PodPorts) -> io::Result<Self> {
        match (Self::open_at(pod, [ports.outbound, ports.inbound]), ports.spare) {
            (Err(error), Some(spare)) if error.kind() == io::ErrorKind::AddrInUse => {
                Self::open_at(pod, spare).map_err(|_second| error)
            }
            (opened, _) => opened,
        }
    }

    fn open_at(pod: &LocalPod, [outbound, inbound]: [u16; 2]) -> io::Result<Self> {
        let open = |port: u16| -> io::Result<Vec<Bound>> {
            pod.workload
                .addrs
                .iter()
                .map(|addr| listen(SocketAddr::new(*addr, port)))
                .collect()
        };
        pod.netns.run(|| {
            Ok(Self {
                outbound: open(outbound)?,
                inbound: open(inbound)?,
            })
        })
    }

    /// Where captured connects are expected.
    pub fn outbound_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.outbound.iter().map(|bound| bound.addr)
    }

    /// The port of those of captured connects, which is the same on each address; `None` of a pod without any.
    pub fn outbound_port(&self) -> Option<u16> {
        self.outbound.first().map(|bound| bound.addr.port())
    }

    /// Where steered connections are expected.
    pub fn inbound_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.inbound.iter().map(|bound| bound.addr)
    }

    /// The sockets that connections for each pod address are steered to.
    pub fn inbound_sockets(&self) -> impl Iterator<Item = (IpAddr, BorrowedFd<'_>)> {
        self.inbound
            .iter()
            .map(|bound| (bound.addr.ip(), bound.listener.as_fd()))
    }

    /// Hands the listeners to the current tokio runtime, one door each. Panics outside a runtime, as tokio does.
    pub fn into_doors(self, pod: &LocalPod) -> io::Result<Vec<Door>> {
        let own_ports: Vec<u16> = self
            .outbound
            .iter()
            .chain(&self.inbound)
            .map(|bound| bound.addr.port())
            // Another agent may have its listeners there.
            .chain(AGENTS_PORTS)
            .collect();
        let outbound = self
            .outbound
            .into_iter()
            .map(|bound| (Direction::Outbound, bound.listener));
        let inbound = self
            .inbound
            .into_iter()
            .map(|bound| (Direction::Inbound, bound.listener));
        outbound
            .chain(inbound)
            .map(|(direction, listener)| Door::open(listener, direction, pod.clone(), own_ports.clone()))
            .collect()
    }
}

fn listen(addr: SocketAddr) -> io::Result<Bound> {
    let attempt = || -> io::Result<Bound> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted agent binds while connections of the last one linger in TIME_WAIT.
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        Ok(Bound {
            addr: listener.local_addr()?,
            listener,
        })
    };
    attempt().map_err(|error| io::Error::new(error.kind(), format!("listen on {addr}: {error}")))
}

/// Capped by the namespace's `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
