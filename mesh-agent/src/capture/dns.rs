//! The DNS listeners of one pod, opened inside its network namespace.
//!
//! Place in the walk: before the first query. Must not know: messages, how queries get here.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use mesh_common::dns::DNS_LISTENERS;
use socket2::{Domain, Protocol, Socket, Type};

use crate::pod::LocalPod;

/// One UDP socket for each address of a pod and each resolver that the hooks can tell apart.
#[derive(Debug)]
pub struct DnsListeners {
    bound: Vec<(SocketAddr, UdpSocket)>,
}

impl DnsListeners {
    /// Opens them, non-blocking, on consecutive ports from `first` on; 0 means any free ports, for tests without kernel
    /// programs. Errors: an address is not the namespace's, or a port is taken.
    pub fn open(pod: &LocalPod, first: u16) -> io::Result<Self> {
        let ports = (0..DNS_LISTENERS).map(|index| {
            if first == 0 {
                0
            } else {
                first.saturating_add(index)
            }
        });
        let ends = ports.flat_map(|port| {
            let addrs = pod.workload.addrs.iter();
            addrs.map(move |addr| SocketAddr::new(*addr, port))
        });
        let bound = pod.netns.run(|| ends.map(bind).collect::<io::Result<_>>())?;
        Ok(Self { bound })
    }

    /// Where queries are expected.
    pub fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.bound.iter().map(|(addr, _)| *addr)
    }

    /// The sockets, for whoever answers on them.
    pub fn into_sockets(self) -> Vec<UdpSocket> {
        self.bound.into_iter().map(|(_, socket)| socket).collect()
    }
}

fn bind(addr: SocketAddr) -> io::Result<(SocketAddr, UdpSocket)> {
    let attempt = || -> io::Result<(SocketAddr, UdpSocket)> {
        // Without SO_REUSEADDR, which would let the application bind the same port and take queries away.
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let socket = UdpSocket::from(socket);
        Ok((socket.local_addr()?, socket))
    };
    attempt().map_err(|error| io::Error::new(error.kind(), format!("bind {addr}/udp: {error}")))
}
