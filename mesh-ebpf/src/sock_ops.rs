//! TCP events: files a captured socket's original destination before its SYN leaves, and forgets it on close; tells
//! `crate::direct` of the sockets of direct flows, and `crate::legs` of those with the agent.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
};
use mesh_common::counter::Counter;
use mesh_common::layout::SocketKey;
use mesh_common::map::MapName;

use crate::ctx::SockEvent;
use crate::{direct, legs, maps, splice};

#[inline(always)]
pub(crate) fn on_event(event: &SockEvent) {
    match event.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => before_syn(event),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            direct::on_connected(event);
            splice::join_client(event);
            legs::on_dialled(event);
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            direct::on_accepted(event);
            splice::join_server(event);
            legs::on_accepted(event);
        }
        BPF_SOCK_OPS_RTT_CB => direct::on_round_trip(event),
        BPF_SOCK_OPS_STATE_CB if event.new_state() == BPF_TCP_CLOSE => {
            maps::close(&key(event));
            direct::on_closed(event);
            splice::part(event);
        }
        _ => {}
    }
}

/// The socket has its local end now, which is all that the agent will know of it.
#[inline(always)]
fn before_syn(event: &SockEvent) {
    let (cookie, key) = (event.cookie(), key(event));
    // Whatever an earlier socket of this local end dialled is over: the agent must never find it for this one.
    maps::forget(&key);
    if direct::register(event) {
        return;
    }
    let Some(original) = maps::by_cookie(cookie) else {
        // Connects to the agent are made by the hook alone: its entry is gone, and the agent will refuse.
        if event.dials_agent() {
            maps::overflowed(MapName::OriginalByCookie);
            maps::count(Counter::Lost);
        } else {
            direct::note_lost(event);
        }
        return;
    };
    // Without an entry the agent refuses the connection: nothing leaks, but it is counted.
    if maps::file_original(&key, &original).is_err() {
        maps::count(Counter::Lost);
    } else if !event.ask_for(BPF_SOCK_OPS_STATE_CB_FLAG) {
        // Nobody would take the entry away when the socket closes.
        maps::forget(&key);
        maps::count(Counter::Lost);
    }
    maps::forget_cookie(cookie);
}

#[inline(always)]
fn key(event: &SockEvent) -> SocketKey {
    let local = event.local();
    SocketKey {
        netns: event.netns(),
        addr: local.addr,
        port: local.port,
        reserved: 0,
    }
}
