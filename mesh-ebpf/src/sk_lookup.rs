//! Inbound: steers a new connection for a pod, whatever its port, to the agent's listener in that pod.
//!
//! Passes direct flows, which are registered by both ends before their SYN leaves: a source that somebody made up is
//! registered for nobody.

use aya_ebpf::bindings::sk_action;
use mesh_common::counter::Counter;
use mesh_common::direct::Ends;
use mesh_common::layout::{Addr, Endpoint};

use crate::ctx::Lookup;
use crate::flow::LiveFlow;
use crate::{dns, maps};

/// What becomes of the packet.
#[derive(Clone, Copy)]
pub(crate) enum Steering {
    /// The kernel goes on: to the socket that was assigned, else to the one it would have found by itself.
    Pass,
    Drop,
}

impl Steering {
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Pass => sk_action::SK_PASS,
            Self::Drop => sk_action::SK_DROP,
        }
    }
}

#[inline(always)]
pub(crate) fn steer(packet: &Lookup) -> Steering {
    if packet.is_udp() {
        return dns::guard(packet);
    }
    if !packet.is_tcp() {
        return Steering::Pass;
    }
    let (remote, local) = packet.addrs();
    if is_own_affair(&remote, &local) {
        return Steering::Pass;
    }
    // A neighbour on the link that avoids the pod's address would avoid every policy.
    if local.is_v6_link_local() {
        return refuse();
    }
    let Some(pod) = maps::pod_addr(&local) else {
        return Steering::Pass;
    };
    let wanted = Endpoint {
        addr: local,
        port: packet.local_port(),
    };
    if maps::is_excluded_inbound(&wanted) {
        maps::count(Counter::ExcludedInbound);
        return Steering::Pass;
    }
    if maps::is_node(&remote) && maps::is_probed(&wanted) {
        maps::count(Counter::Probe);
        return Steering::Pass;
    }
    if is_direct(packet, &wanted, remote) {
        maps::count(Counter::PassedDirect);
        return Steering::Pass;
    }
    if maps::is_agent_dead() {
        if pod.fails_open == 0 {
            return refuse();
        }
        maps::count_bypass(pod.netns);
        return Steering::Pass;
    }
    // No listener: the agent is gone. Refused, never leaked.
    if maps::inbound()
        .redirect_sk_lookup(packet.ctx(), local, 0)
        .is_err()
    {
        return refuse();
    }
    maps::count(Counter::Steered);
    Steering::Pass
}

/// Lets in what the pod itself sends, and nobody else.
#[inline(always)]
pub(crate) fn refuse_all(packet: &Lookup) -> Steering {
    let (remote, local) = packet.addrs();
    if !packet.is_tcp() || is_own_affair(&remote, &local) {
        return Steering::Pass;
    }
    refuse()
}

/// From the pod itself: a captured connect on its way to the agent, the agent's delivery, or the pod's own affair.
/// From outside neither comes: the kernel drops such sources as martians.
#[inline(always)]
pub(crate) fn is_own_affair(remote: &Addr, local: &Addr) -> bool {
    remote.is(local) || remote.is_loopback() || local.is_loopback()
}

/// Whether a living socket registered this very connection.
#[inline(always)]
fn is_direct(packet: &Lookup, wanted: &Endpoint, remote: Addr) -> bool {
    let ends = Ends {
        client: Endpoint {
            addr: remote,
            port: packet.remote_port(),
        },
        server: *wanted,
    };
    LiveFlow::find(&ends).is_some_and(LiveFlow::is_open_for_syn)
}

#[inline(always)]
pub(crate) fn refuse() -> Steering {
    maps::count(Counter::Dropped);
    Steering::Drop
}
