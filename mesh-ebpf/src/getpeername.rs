//! `getpeername()` and the address that `accept()` returns: the application sees whom it really talks to.

use mesh_common::direct::Ends;
use mesh_common::layout::{Endpoint, SocketKey, is_outbound_port};

use crate::ctx::SockAddr;
use crate::flow::LiveFlow;
use crate::{dns, maps};

#[inline(always)]
pub(crate) fn show(sock: &SockAddr) {
    if sock.is_udp() {
        return dns::show(sock);
    }
    if !sock.is_tcp() {
        return;
    }
    let netns = sock.netns();
    let Some(pod) = maps::pod(netns) else { return };
    let peer = sock.peer();
    // Both ends of what the agent relays lie on the pod's own address.
    let is_relayed = peer.addr.is(&pod.v4) || peer.addr.is(&pod.v6);
    let real = if !is_relayed {
        dialled_direct(sock, netns, &peer)
    } else if is_outbound_port(peer.port) {
        dialled(sock, netns)
    } else {
        maps::true_peer(&key(netns, &peer))
    };
    if let Some(real) = real {
        sock.set_peer(&real);
    }
}

/// What this socket dialled: by its own end, or by its cookie while the SYN is still held back (TCP Fast Open).
#[inline(always)]
fn dialled(sock: &SockAddr, netns: u64) -> Option<Endpoint> {
    let local = sock.local()?;
    maps::original(&key(netns, &local)).or_else(|| maps::by_cookie(sock.cookie()))
}

/// What the client of a direct flow dialled: the address of a Service is replaced in the kernel only.
#[inline(always)]
fn dialled_direct(sock: &SockAddr, netns: u64, server: &Endpoint) -> Option<Endpoint> {
    let ends = Ends {
        client: sock.local()?,
        server: *server,
    };
    match LiveFlow::find(&ends) {
        Some(flow) if flow.client_netns() == netns => Some(flow.dialled()),
        Some(_) => None,
        None => maps::chosen(sock.cookie()).map(|chosen| chosen.dialled),
    }
}

#[inline(always)]
fn key(netns: u64, end: &Endpoint) -> SocketKey {
    SocketKey {
        netns,
        addr: end.addr,
        port: end.port,
        reserved: 0,
    }
}
