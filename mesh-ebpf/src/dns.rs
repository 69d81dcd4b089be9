//! DNS over UDP: a pod's queries go to the agent, and its answers look like the resolver's.
//!
//! Each resolver that a pod asks gets one of the listeners on the pod's own address. Nothing is kept for a socket: the
//! port which an answer comes from names the resolver, whether the socket is connected, asks resolvers in turn, or all
//! of them at once. DNS over TCP is a connection like any other.

use mesh_common::counter::Counter;
use mesh_common::dns::{DNS_LISTENERS, DNS_PORT, dns_listener, is_dns_listener};
use mesh_common::layout::{Addr, Endpoint, Pod, SocketKey};

use crate::connect::{refuse_port, without_agent};
use crate::ctx::{Lookup, Outcome, SockAddr};
use crate::sk_lookup::{Steering, is_own_affair, refuse};
use crate::{maps, resolvers};

/// `connect()` of a UDP socket.
#[inline(always)]
pub(crate) fn connect(sock: &SockAddr) -> Outcome {
    redirect(sock, |_| false)
}

/// A datagram that names its receiver.
#[inline(always)]
pub(crate) fn send(sock: &SockAddr) -> Outcome {
    // A connected IPv6 socket that talks IPv4 names its receiver each time: what connect made of it.
    redirect(sock, |listener| resolvers::resolver_of(listener).is_some())
}

#[inline(always)]
fn redirect(sock: &SockAddr, may_be_redirected: impl FnOnce(&SocketKey) -> bool) -> Outcome {
    let dialled = sock.peer();
    let is_query = dialled.port == u32::from(DNS_PORT);
    if !is_query && !is_dns_listener(dialled.port) {
        return Outcome::Allow;
    }
    let netns = sock.netns();
    let Some(pod) = maps::pod(netns) else {
        return Outcome::Allow;
    };
    if !resolvers::captures_dns(netns) {
        return Outcome::Allow;
    }
    if dialled.addr.is(&pod.v4) || dialled.addr.is(&pod.v6) {
        let listener = SocketKey {
            netns,
            addr: dialled.addr,
            port: dialled.port,
            reserved: 0,
        };
        // The listeners are not for the pod: what it says there of its own accord was meant for no resolver.
        return if is_query || may_be_redirected(&listener) {
            Outcome::Allow
        } else {
            refuse_port()
        };
    }
    if !is_query || dialled.addr.is_no_resolver() || maps::is_excluded_outbound(netns, &dialled) {
        return Outcome::Allow;
    }
    if maps::is_agent_dead() {
        return without_agent(&pod, netns);
    }
    to_agent(sock, &pod, netns, &dialled.addr)
}

#[inline(always)]
fn to_agent(sock: &SockAddr, pod: &Pod, netns: u64, resolver: &Addr) -> Outcome {
    let own = if resolver.is_v4() { &pod.v4 } else { &pod.v6 };
    let mut listener = SocketKey {
        netns,
        addr: *own,
        port: 0,
        reserved: 0,
    };
    if !own.is_absent() {
        for index in 0..DNS_LISTENERS {
            listener.port = u32::from(dns_listener(index));
            if resolvers::stands_for(&listener, resolver) {
                sock.set_peer(&Endpoint {
                    addr: *own,
                    port: listener.port,
                });
                maps::count(Counter::DnsCaptured);
                return Outcome::Allow;
            }
        }
    }
    maps::count(Counter::DnsPassed);
    Outcome::Allow
}

/// What the application sees of a datagram's sender, or of the other end of a connected socket.
#[inline(always)]
pub(crate) fn show(sock: &SockAddr) {
    let peer = sock.peer();
    if !is_dns_listener(peer.port) {
        return;
    }
    let listener = SocketKey {
        netns: sock.netns(),
        addr: peer.addr,
        port: peer.port,
        reserved: 0,
    };
    if let Some(resolver) = resolvers::resolver_of(&listener) {
        sock.set_peer(&Endpoint {
            addr: resolver,
            port: u32::from(DNS_PORT),
        });
    }
}

/// A datagram for a socket of the namespace: the listeners are for the pod alone.
#[inline(always)]
pub(crate) fn guard(packet: &Lookup) -> Steering {
    if !is_dns_listener(packet.local_port()) {
        return Steering::Pass;
    }
    let (remote, local) = packet.addrs();
    if is_own_affair(&remote, &local) {
        return Steering::Pass;
    }
    match maps::pod_addr(&local) {
        Some(pod) if resolvers::captures_dns(pod.netns) => refuse(),
        _ => Steering::Pass,
    }
}
