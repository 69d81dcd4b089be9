//! Joins the sockets of direct flows, so that their messages may be spliced, and parts them.
//!
//! A socket that cannot be joined (MPTCP, TLS of the kernel, a full map) stays with TCP, and so does
//! one whose application was seen to block in reads or was not seen yet. Must not know: messages.

use mesh_common::layout::Endpoint;
use mesh_common::splice::{HabitKey, Reader, SocketEnds, Writer};

use crate::ctx::SockEvent;
use crate::flow::{LiveFlow, Side};
use crate::{maps, pipes};

/// A socket is connected: when its flow is a direct one its reads are watched, and it is joined where it is known how such
/// sockets are read.
#[inline(never)]
pub(crate) fn join_client(event: &SockEvent) {
    let ends = ends(event);
    let is_direct = LiveFlow::of_socket(&ends.of_flow(true), Side::Client, event.cookie()).is_some();
    if is_direct && watch(event, ends.remote, 1) && will_join(&ends.remote) {
        join(event, &ends, 0);
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
        is_client: 0,
    })
}

/// A socket was accepted; the other end was connected, and perhaps joined, before.
#[inline(never)]
pub(crate) fn join_server(event: &SockEvent) {
    let ends = ends(event);
    if LiveFlow::find(&ends.of_flow(false)).is_none() || !watch(event, ends.local, 0) {
        return;
    }
    let client_ends = ends.turned();
    let Some(client) = pipes::writer(&client_ends) else {
        return;
    };
    if join(event, &ends, client.own) {
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
fn watch(event: &SockEvent, server: Endpoint, is_client: u32) -> bool {
    let habit = HabitKey {
        netns: event.netns(),
        server,
        is_client,
    };
    pipes::is_on()
        && pipes::add_reader(event.cookie(), &Reader::new(habit)).is_ok()
        && pipes::has_good_habit(&habit)
}

/// Whether the socket is joined now. It may splice to the socket `reader` unless that is 0.
#[inline(always)]
fn join(event: &SockEvent, ends: &SocketEnds, reader: u64) -> bool {
    let own = event.cookie();
    let writer = Writer {
        own,
        reader,
        spliced: 0,
        is_client: u32::from(reader == 0),
        reserved: 0,
    };
    let is_joined = pipes::add_writer(ends, &writer).is_ok() && event.join(pipes::sockets(), *ends);
    if !is_joined {
        pipes::forget(ends, own);
    }
    is_joined
}

#[inline(always)]
fn ends(event: &SockEvent) -> SocketEnds {
    SocketEnds {
        local: event.local(),
        remote: event.remote(),
    }
}
