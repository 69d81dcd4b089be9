//! `connect()`: what becomes of the destination that a pod dials.
//!
//! An enrolled pod's connection goes to the agent or nowhere, unless a verdict of the agent lets it go direct: whatever
//! fails here refuses it.

use mesh_common::counter::Counter;
use mesh_common::dns::DNS_PORT;
use mesh_common::layout::{Addr, Endpoint, Pod, is_agents_port};

use crate::ctx::{Outcome, SockAddr, fail_with};
use crate::{direct, dns, maps, resolvers};

#[inline(always)]
pub(crate) fn decide(sock: &SockAddr) -> Outcome {
    if sock.is_udp() {
        return dns::connect(sock);
    }
    if !sock.is_tcp() {
        return Outcome::Allow;
    }
    let dialled = sock.peer();
    if dialled.addr.is_left_alone() && !is_dns(sock, &dialled) {
        maps::count(Counter::LeftAlone);
        return Outcome::Allow;
    }
    // A process of the pod in a network namespace of its own making, or somebody took the pod's entry away.
    let netns = sock.netns();
    let Some(pod) = maps::pod(netns) else {
        return refuse(Counter::Refused, ENETUNREACH);
    };
    if dialled.addr.is(&pod.v4) || dialled.addr.is(&pod.v6) {
        return own_address(&dialled);
    }
    if maps::is_excluded_outbound(netns, &dialled) {
        maps::count(Counter::ExcludedOutbound);
        return Outcome::Allow;
    }
    if maps::is_agent_dead() {
        return without_agent(&pod, netns);
    }
    if direct::dial(sock, netns, &dialled) {
        return Outcome::Allow;
    }
    to_agent(sock, &pod, &dialled)
}

/// DNS over TCP goes wherever DNS over UDP would.
#[inline(always)]
fn is_dns(sock: &SockAddr, dialled: &Endpoint) -> bool {
    dialled.port == u32::from(DNS_PORT)
        && !dialled.addr.is_no_resolver()
        && resolvers::captures_dns(sock.netns())
}

/// Nobody is there to be sent to, or nobody that answers.
#[inline(always)]
pub(crate) fn without_agent(pod: &Pod, netns: u64) -> Outcome {
    if pod.fails_open == 0 {
        return refuse(Counter::Refused, ECONNREFUSED);
    }
    maps::count_bypass(netns);
    Outcome::Allow
}

/// The pod dials itself. The ports of agents are not for it: what it says there has no original destination.
#[inline(always)]
fn own_address(dialled: &Endpoint) -> Outcome {
    if is_agents_port(dialled.port) {
        return refuse_port();
    }
    maps::count(Counter::LeftAlone);
    Outcome::Allow
}

#[inline(always)]
fn to_agent(sock: &SockAddr, pod: &Pod, dialled: &Endpoint) -> Outcome {
    let own: &Addr = if sock.is_v4_socket() || dialled.addr.is_v4() {
        &pod.v4
    } else {
        &pod.v6
    };
    if own.is_absent() {
        return refuse(Counter::Refused, ENETUNREACH);
    }
    if maps::remember_by_cookie(sock.cookie(), dialled).is_err() {
        return refuse(Counter::Lost, ENOBUFS);
    }
    sock.set_peer(&Endpoint {
        addr: *own,
        port: pod.agents_port(),
    });
    maps::count(Counter::Captured);
    Outcome::Allow
}

/// A port of the agent that the pod may not talk to.
#[inline(always)]
pub(crate) fn refuse_port() -> Outcome {
    refuse(Counter::Refused, ECONNREFUSED)
}

#[inline(always)]
fn refuse(counter: Counter, errno: i32) -> Outcome {
    maps::count(counter);
    if maps::can_set_retval() {
        fail_with(errno);
    }
    Outcome::Refuse
}

const ENETUNREACH: i32 = 101;
const ENOBUFS: i32 = 105;
const ECONNREFUSED: i32 = 111;
