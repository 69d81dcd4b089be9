//! Ends sockets of pods by `SOCK_DESTROY` (`sock_diag(7)`, `CONFIG_INET_DIAG_DESTROY`).
//!
//! Must not know: why a socket must end.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mesh_common::socket_cookie::socket_cookie;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::pod::netns::Netns;

/// A TCP socket of some namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Which socket of these ends: no later one is ended in its place.
    pub cookie: u64,
}

/// Ends a socket: its application sees `ECONNABORTED`, the other end a reset. Whether it was there.
///
/// Synchronous: the kernel answers within the call. Errors: the kernel cannot, or may not.
pub fn destroy(netns: &Netns, victim: Victim) -> io::Result<bool> {
    let socket = netns.run(|| {
        Ok(socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?)
    })?;
    match ask(&socket, victim) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this kernel ends sockets: tried on a connection of the agent's own, over loopback.
pub fn probe() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let victim = Victim {
        local: client.local_addr()?,
        remote: client.peer_addr()?,
        cookie: socket_cookie(client.as_raw_fd()).map_err(io::Error::from_raw_os_error)?,
    };
    if !destroy(&Netns::current()?, victim)? {
        return Err(io::Error::other("a living socket was not found"));
    }
    match client.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("a socket outlived its destruction")),
    }
}

fn ask(socket: &OwnedFd, victim: Victim) -> io::Result<()> {
    let message = request(victim);
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::seconds(ANSWER_S))?;
    sendto(
        socket.as_raw_fd(),
        &bytes,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 512];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    let answer: NetlinkMessage<SockDiagDestroy> =
        NetlinkMessage::deserialize(answer).map_err(io::Error::other)?;
    let NetlinkPayload::Error(answer) = answer.payload else {
        return Err(io::Error::other("the kernel's answer is none"));
    };
    // No code is the acknowledgement.
    match answer.code {
        None => Ok(()),
        Some(code) => Err(Errno::from_raw(code.get().saturating_neg()).into()),
    }
}

fn request(victim: Victim) -> NetlinkMessage<SockDiagDestroy> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    // An IPv6 socket with mapped addresses is found as the IPv4 one that it is on the wire.
    let (local, remote) = (
        victim.local.ip().to_canonical(),
        victim.remote.ip().to_canonical(),
    );
    let request = SockDiagMessage::InetRequest(InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: victim.local.port(),
            destination_port: victim.remote.port(),
            source_address: local,
            destination_address: remote,
            interface_id: 0,
            // The halves as inet_diag takes them: the lower one first.
            cookie: lower_half_first(victim.cookie),
        },
    });
    let mut message = NetlinkMessage::new(
        header,
        NetlinkPayload::InnerMessage(SockDiagDestroy::new(request)),
    );
    message.finalize();
    message
}

/// `sock_diag_save_cookie`: two words in host order.
fn lower_half_first(cookie: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    let (low, high) = bytes.split_at_mut(4);
    let halves = [cookie & u64::from(u32::MAX), cookie >> 32];
    for (slot, half) in [low, high].into_iter().zip(halves) {
        let half = u32::try_from(half).unwrap_or_default();
        slot.copy_from_slice(&half.to_ne_bytes());
    }
    bytes
}

/// Seconds that an answer may take, which comes before the request returns.
const ANSWER_S: i64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_half_of_a_cookie_comes_first() {
        let mut wanted = [0; 8];
        wanted[..4].copy_from_slice(&2_u32.to_ne_bytes());
        wanted[4..].copy_from_slice(&1_u32.to_ne_bytes());
        assert_eq!(lower_half_first((1 << 32) + 2), wanted);
    }
}
