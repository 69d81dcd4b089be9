//! Direct flows: chosen at connect, registered before the SYN leaves, counted while they live, reported when they end.
//!
//! A verdict of the agent allows each; without one nothing here happens. What answers an event is a function of its own
//! in the object, too: together they would not fit on the 512-byte stack.

use mesh_common::counter::Counter;
use mesh_common::direct::{Chosen, DirectKey, EndStats, Ends, Flow};
use mesh_common::layout::Endpoint;
use mesh_common::map::MapName;

use aya_ebpf::bindings::{BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB_FLAG};
use aya_ebpf::bindings::{BPF_TCP_CLOSE_WAIT, BPF_TCP_ESTABLISHED};
use aya_ebpf::bindings::{BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, BPF_TCP_SYN_SENT};

use crate::ctx::{SockAddr, SockEvent, now_ns};
use crate::flow::{LiveFlow, Sample, Side};
use crate::maps;

/// Sends a connect to one of the endpoints that a verdict allows; `false` where the agent must have it.
#[inline(always)]
pub(crate) fn dial(sock: &SockAddr, netns: u64, dialled: &Endpoint) -> bool {
    let key = DirectKey {
        netns,
        dialled: *dialled,
        reserved: 0,
    };
    let Some(server) = maps::any_endpoint(&key) else {
        return false;
    };
    let chosen = Chosen {
        dialled: *dialled,
        server,
    };
    if maps::remember_chosen(sock.cookie(), &chosen).is_err() {
        maps::count(Counter::DirectLost);
        return false;
    }
    if !is_same(&server, dialled) {
        sock.set_peer(&server);
    }
    maps::count(Counter::Direct);
    true
}

/// Registers the flow that `sk_lookup` will let pass at the server; `false` for a socket that does not go direct. A flow
/// that cannot be registered is steered to the server's agent, which refuses it.
#[inline(never)]
pub(crate) fn register(event: &SockEvent) -> bool {
    let (netns, cookie) = (event.netns(), event.cookie());
    let Some(chosen) = maps::chosen(cookie) else {
        return false;
    };
    maps::forget_chosen(cookie);
    if !is_registered(event, netns, cookie, &chosen) {
        maps::count(Counter::DirectLost);
    }
    true
}

/// A socket whose connect neither went to the agent nor is known to go direct. One that dials an enrolled pod all the same was
/// either left alone, or its entry was evicted: that is counted, since the agent of the server will refuse it.
#[inline(never)]
pub(crate) fn note_lost(event: &SockEvent) {
    let (netns, remote) = (event.netns(), event.remote());
    let is_to_a_pod = maps::pod_addr(&remote.addr).is_some_and(|pod| pod.netns != netns);
    if is_to_a_pod && !maps::is_excluded_outbound(netns, &remote) && !maps::is_agent_dead() {
        maps::overflowed(MapName::DirectByCookie);
        maps::count(Counter::DirectLost);
    }
}

#[inline(always)]
fn is_registered(event: &SockEvent, netns: u64, cookie: u64, chosen: &Chosen) -> bool {
    let ends = Ends {
        client: event.local(),
        server: event.remote(),
    };
    // An address that is not the pod's own would be shown to the server as if it were another pod's.
    let is_own = maps::pod(netns).is_some_and(|pod| {
        let addr = &ends.client.addr;
        addr.is(&pod.v4) || addr.is(&pod.v6)
    });
    if !is_own || !is_same(&ends.server, &chosen.server) {
        return false;
    }
    // An earlier flow of the same ends, whose server has not closed yet.
    if let Some(earlier) = LiveFlow::find(&ends) {
        earlier.report(&ends);
    }
    let flow = Flow {
        client_netns: netns,
        server_netns: 0,
        started_ns: now_ns(),
        ended_ns: 0,
        client: EndStats {
            cookie,
            ..NOTHING_YET
        },
        server: NOTHING_YET,
        dialled: chosen.dialled,
        established: 0,
    };
    if maps::add_flow(&ends, &flow).is_err() {
        return false;
    }
    // The agent removes a verdict, then looks for flows: whichever comes first here, one of the two sees the other.
    let key = DirectKey {
        netns,
        dialled: chosen.dialled,
        reserved: 0,
    };
    let is_allowed = maps::has_endpoint(&key, &chosen.server);
    let is_watched = is_allowed && event.ask_for(BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG);
    if !is_watched {
        maps::remove_flow(&ends);
    }
    is_watched
}

/// The handshake of a socket that dialled is over.
#[inline(never)]
pub(crate) fn on_connected(event: &SockEvent) {
    if let Some(flow) = LiveFlow::of_socket(&as_client(event), Side::Client, event.cookie()) {
        flow.establish();
    }
}

/// A socket was accepted.
#[inline(never)]
pub(crate) fn on_accepted(event: &SockEvent) {
    let Some(flow) = LiveFlow::find(&as_server(event)) else {
        return;
    };
    // Without its events the client's end closes the flow alone, some seconds later.
    if event.ask_for(BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG) {
        flow.accept(event.netns(), event.cookie());
    }
}

/// Something that a socket sent was acknowledged.
#[inline(never)]
pub(crate) fn on_round_trip(event: &SockEvent) {
    // Later, an acknowledged FIN may be among the bytes; what is outstanding then is noted at the close.
    if !matches!(event.state(), BPF_TCP_ESTABLISHED | BPF_TCP_CLOSE_WAIT) {
        return;
    }
    if let Some((flow, _, side)) = flow_of(event) {
        flow.note(side, sample(event, side, 0));
    }
}

/// A socket is closed.
#[inline(never)]
pub(crate) fn on_closed(event: &SockEvent) {
    let Some((flow, ends, side)) = flow_of(event) else {
        return;
    };
    let before = event.old_state();
    // A refused or unanswered client never had its SYN acknowledged, and sent nothing.
    if before != BPF_TCP_SYN_SENT {
        let is_fin_acknowledged = before == BPF_TCP_FIN_WAIT2
            || (matches!(before, BPF_TCP_CLOSING | BPF_TCP_LAST_ACK) && event.is_all_acknowledged());
        flow.note(side, sample(event, side, u64::from(is_fin_acknowledged)));
    }
    flow.close(side, now_ns());
    if flow.is_over() {
        flow.report(&ends);
    }
}

/// The flow of a socket, with its key and which end the socket is.
#[inline(always)]
fn flow_of(event: &SockEvent) -> Option<(LiveFlow, Ends, Side)> {
    let cookie = event.cookie();
    let ends = as_client(event);
    if let Some(flow) = LiveFlow::of_socket(&ends, Side::Client, cookie) {
        return Some((flow, ends, Side::Client));
    }
    let ends = as_server(event);
    let flow = LiveFlow::of_socket(&ends, Side::Server, cookie)?;
    Some((flow, ends, Side::Server))
}

/// What was acknowledged, but for SYN and FIN: a sequence number each (RFC 9293, 3.4). A server's SYN is not among the
/// bytes that the kernel counts.
#[inline(always)]
fn sample(event: &SockEvent, side: Side, fins: u64) -> Sample {
    let syns = u64::from(side == Side::Client);
    Sample {
        sent: event.bytes_acked().saturating_sub(syns + fins),
        srtt_us: event.srtt_us(),
        retransmits: event.retransmits(),
    }
}

#[inline(always)]
fn as_client(event: &SockEvent) -> Ends {
    Ends {
        client: event.local(),
        server: event.remote(),
    }
}

#[inline(always)]
fn as_server(event: &SockEvent) -> Ends {
    Ends {
        client: event.remote(),
        server: event.local(),
    }
}

/// As `Addr::is`: no loop for the verifier.
#[inline(always)]
pub(crate) fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    one.port == other.port && one.addr.is(&other.addr)
}

const NOTHING_YET: EndStats = EndStats {
    cookie: 0,
    sent: 0,
    spliced: 0,
    srtt_us: 0,
    retransmits: 0,
    closed: 0,
    reserved: 0,
};
