//! The connections that a pod has open, asked of the kernel (`sock_diag(7)`).
//!
//! Must not know: whose they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SockDiagMessage};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::pod::netns::Netns;

/// Established TCP connections of the namespace with others than itself; 0 for the stand-in of a fake kernel, which is
/// no pod.
///
/// Synchronous: the kernel answers within the call. Errors: it cannot, or may not.
pub fn open(netns: &Netns) -> io::Result<u64> {
    if netns.file().is_none() {
        return Ok(0);
    }
    let socket = netns.run(|| {
        Ok(socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?)
    })?;
    setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::seconds(ANSWER_S))?;
    Ok(count(&socket, AF_INET)? + count(&socket, AF_INET6)?)
}

fn count(socket: &OwnedFd, family: u8) -> io::Result<u64> {
    let message = request(family);
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let to_kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &bytes, &to_kernel, MsgFlags::empty())?;
    let (mut answer, mut found) = (vec![0; PART], 0);
    loop {
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let mut part = answer.get(..length).unwrap_or_default();
        while !part.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(part).map_err(io::Error::other)?;
            if let NetlinkPayload::Done(_) = message.payload {
                return Ok(found);
            }
            found += u64::from(is_with_others(&ends(message.payload)?));
            // Messages begin at multiples of four.
            let taken = usize::try_from(message.header.length).map_err(io::Error::other)?;
            let taken = taken.next_multiple_of(4);
            part = part.get(taken..).unwrap_or_default();
        }
    }
}

/// Of the socket that a part of the answer is about.
fn ends(payload: NetlinkPayload<SockDiagMessage>) -> io::Result<SocketId> {
    if let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(one)) = payload {
        return Ok(one.header.socket_id);
    }
    if let NetlinkPayload::Error(error) = payload {
        let code = error.code.map_or(0, NonZero::get);
        return Err(Errno::from_raw(code.saturating_neg()).into());
    }
    Err(io::Error::other("the kernel's answer is none"))
}

fn is_with_others(ends: &SocketId) -> bool {
    let (own, other) = (
        ends.source_address.to_canonical(),
        ends.destination_address.to_canonical(),
    );
    own != other && !own.is_loopback()
}

fn request(family: u8) -> NetlinkMessage<SockDiagMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let any = if family == AF_INET {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id: SocketId {
            source_port: 0,
            destination_port: 0,
            source_address: any,
            destination_address: any,
            interface_id: 0,
            cookie: [0; 8],
        },
    });
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    message
}

/// Seconds that a part of the answer may take, which comes before the request returns.
const ANSWER_S: i64 = 1;
/// The kernel fills parts of 8 to 32 KiB.
const PART: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn between(own: &str, other: &str) -> SocketId {
        SocketId {
            source_port: 1,
            destination_port: 2,
            source_address: own.parse().unwrap(),
            destination_address: other.parse().unwrap(),
            interface_id: 0,
            cookie: [0; 8],
        }
    }

    #[test]
    fn what_a_pod_says_to_itself_is_not_counted() {
        for (own, other, counts) in [
            ("10.0.0.5", "10.0.0.6", true),
            ("::ffff:10.0.0.5", "::ffff:10.0.0.6", true),
            ("fd00::5", "fd00::6", true),
            ("10.0.0.5", "10.0.0.5", false),
            ("127.0.0.1", "127.0.0.2", false),
            ("::1", "::1", false),
        ] {
            assert_eq!(is_with_others(&between(own, other)), counts, "{own} {other}");
        }
    }
}
