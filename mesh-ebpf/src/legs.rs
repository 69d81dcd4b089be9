//! Joins both ends of a connection between an application and the agent, where the agent relays bytes that it does not read.
//!
//! Which those are it says by a habit of its own ([`RELAYS`]); that a socket is an end of one, the maps of capture and
//! delivery say. Joined, they splice nothing yet: the agent opens both directions, since it must read and write such a
//! connection in another way. Must not know: messages, what is relayed.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE,
};
use mesh_common::layout::{Endpoint, SocketKey, is_outbound_port};
use mesh_common::splice::{ACCEPTS, DIALS, HabitKey, RELAYS};

use crate::ctx::SockEvent;
use crate::flow::Side;
use crate::splice::{self, NOBODY};
use crate::{maps, pipes};

/// An event of a socket in the agent's own cgroup.
#[inline(always)]
pub(crate) fn on_agents_event(event: &SockEvent) {
    match event.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => delivers(event),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => captures(event),
        BPF_SOCK_OPS_STATE_CB if event.new_state() == BPF_TCP_CLOSE => splice::part(event),
        _ => {}
    }
}

/// The application's socket is connected, perhaps to the agent.
#[inline(never)]
pub(crate) fn on_dialled(event: &SockEvent) {
    if pipes::is_on()
        && event.dials_agent()
        && let Some(dialled) = maps::original(&key(event.netns(), &event.local()))
    {
        meet(event, dialled, Side::Client, [DIALS, RELAYS]);
    }
}

/// The application accepted somebody, perhaps the agent.
#[inline(never)]
pub(crate) fn on_accepted(event: &SockEvent) {
    let (local, remote) = (event.local(), event.remote());
    if pipes::is_on()
        && remote.addr.is(&local.addr)
        && maps::true_peer(&key(event.netns(), &remote)).is_some()
    {
        meet(event, local, Side::Server, [ACCEPTS, RELAYS]);
    }
}

/// The agent connected to somebody: to an application when it filed for whom.
#[inline(never)]
fn delivers(event: &SockEvent) {
    let (local, remote) = (event.local(), event.remote());
    if pipes::is_on() && remote.addr.is(&local.addr) && maps::true_peer(&key(event.netns(), &local)).is_some()
    {
        meet(event, remote, Side::Client, [RELAYS, ACCEPTS]);
    }
}

/// The agent accepted somebody: an application when its connect was captured.
#[inline(never)]
fn captures(event: &SockEvent) {
    let (local, remote) = (event.local(), event.remote());
    if pipes::is_on()
        && is_outbound_port(local.port)
        && remote.addr.is(&local.addr)
        && let Some(dialled) = maps::original(&key(event.netns(), &remote))
    {
        meet(event, dialled, Side::Server, [RELAYS, DIALS]);
    }
}

/// One end of a connection to `server`; who reads it, and who the other.
///
/// The end that dials is first. It is joined only when the other will be, and the other only when it was.
#[inline(always)]
fn meet(event: &SockEvent, server: Endpoint, side: Side, [own, other]: [u32; 2]) {
    let habit = |role| HabitKey {
        netns: event.netns(),
        server,
        role,
    };
    let is_relayed = pipes::has_habit(&habit(RELAYS)) && event.ask_for(BPF_SOCK_OPS_STATE_CB_FLAG);
    if !is_relayed || !splice::watch(event, &habit(own)) {
        return;
    }
    let ends = splice::ends(event);
    let has_partner = match side {
        Side::Client => pipes::has_good_habit(&habit(other)),
        Side::Server => pipes::writer(&ends.turned()).is_some(),
    };
    if has_partner {
        splice::join(event, &ends, side, NOBODY);
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
