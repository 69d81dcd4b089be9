//! Joins the sockets of direct flows, so that their messages may be spliced, and parts them; those of connections between
//! an application and the agent are chosen in [`crate::legs`].
//!
//! A socket that cannot be joined (MPTCP, TLS of the kernel, a full map) stays with TCP, and so does
//! one whose application was seen to block in reads or was not seen yet. Must not know: messages.

use mesh_common::layout::Endpoint;
use mesh_common::splice::{ACCEPTS, DIALS, HabitKey, Reader, SocketEnds, Writer};

use crate::ctx::SockEvent;
use crate::flow::{LiveFlow, Side};
use crate::{maps, pipes};

/// A socket is connected: when its flow is a direct one its reads are watched, and it is joined where it is known how such
/// sockets are read.
#[inline(never)]
pub(crate) fn join_client(event: &SockEvent) {
    let ends = ends(event);
    let is_direct = LiveFlow::of_socket(&ends.of_flow(true), Side::Client, event.cookie()).is_some();
    if is_direct
        && pipes::is_on()
        && watch(event, &habit(event, ends.remote, DIALS))
        && will_join(&ends.remote)
    {
        join(event, &ends, Side::Client, NOBODY);
    }
}

/// Whether the socket that is about to be accepted at `server` will be joined: a socket that is joined alone only loses.
#[inline(always)]
fn will_join(server: &Endpoint) -> bool {
    let Some(pod) = maps::pod_addr(&server.addr) else {
        return false;
    };
    pipes::has_good_habit(&HabitKey {
        netns: pod.netns,
        server: *server,
        role: ACCEPTS,
    })
}

/// A socket was accepted; the other end was connected, and perhaps joined, before.
#[inline(never)]
pub(crate) fn join_server(event: &SockEvent) {
    let ends = ends(event);
    let is_direct = LiveFlow::find(&ends.of_flow(false)).is_some();
    if !is_direct || !pipes::is_on() || !watch(event, &habit(event, ends.local, ACCEPTS)) {
        return;
    }
    let client_ends = ends.turned();
    let Some(client) = pipes::writer(&client_ends) else {
        return;
    };
    if join(event, &ends, Side::Server, client.own) {
        pipes::open(&client_ends, event.cookie());
    }
}

/// The socket closes.
#[inline(never)]
pub(crate) fn part(event: &SockEvent) {
    pipes::close(&ends(event), event.cookie());
}

/// Has the reads of a socket counted; whether sockets like it may be joined.
#[inline(always)]
pub(crate) fn watch(event: &SockEvent, habit: &HabitKey) -> bool {
    pipes::add_reader(event.cookie(), &Reader::new(*habit)).is_ok() && pipes::has_good_habit(habit)
}

/// Whether the socket is joined now. It may splice to the socket `reader` unless that is [`NOBODY`].
#[inline(always)]
pub(crate) fn join(event: &SockEvent, ends: &SocketEnds, side: Side, reader: u64) -> bool {
    let own = event.cookie();
    let writer = Writer {
        own,
        reader,
        spliced: 0,
        is_client: u32::from(side == Side::Client),
        reserved: 0,
    };
    let is_joined = pipes::add_writer(ends, &writer).is_ok() && event.join(pipes::sockets(), *ends);
    if !is_joined {
        pipes::forget(ends, own);
    }
    is_joined
}

#[inline(always)]
fn habit(event: &SockEvent, server: Endpoint, role: u32) -> HabitKey {
    HabitKey {
        netns: event.netns(),
        server,
        role,
    }
}

#[inline(always)]
pub(crate) fn ends(event: &SockEvent) -> SocketEnds {
    SocketEnds {
        local: event.local(),
        remote: event.remote(),
    }
}

/// No socket's cookie.
pub(crate) const NOBODY: u64 = 0;
