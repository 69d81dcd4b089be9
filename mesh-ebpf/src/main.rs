//! Entry points of the kernel programs; each hook has a file of its own.
//!
//! Place in the walk: before everything else, in the kernel. Must not know: policies, protocols, who the agent is.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    clippy::inline_always,
    reason = "the verifier must see context and constants where they are used"
)]

mod connect;
mod ctx;
mod direct;
mod dns;
mod flow;
mod getpeername;
mod legs;
mod maps;
mod message;
mod pipes;
mod reads;
mod resolvers;
mod sk_lookup;
mod sk_msg;
mod sock_ops;
mod splice;

use aya_ebpf::macros::{btf_tracepoint, cgroup_sock_addr, sk_lookup, sk_msg, sock_ops};
use aya_ebpf::programs::{
    BtfTracePointContext, SkLookupContext, SkMsgContext, SockAddrContext, SockOpsContext,
};

use crate::ctx::{Lookup, SockAddr, SockEvent};

/// `connect()` of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    connect::decide(&SockAddr::v4(ctx)).code()
}

/// `connect()` of an IPv6 socket.
#[cgroup_sock_addr(connect6)]
fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    connect::decide(&SockAddr::v6(ctx)).code()
}

/// `getpeername()` and `accept()` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
fn mesh_peername4(ctx: SockAddrContext) -> i32 {
    getpeername::show(&SockAddr::v4(ctx));
    ctx::Outcome::Allow.code()
}

/// `getpeername()` and `accept()` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
fn mesh_peername6(ctx: SockAddrContext) -> i32 {
    getpeername::show(&SockAddr::v6(ctx));
    ctx::Outcome::Allow.code()
}

/// A datagram to an IPv4 address, of a socket of either family.
#[cgroup_sock_addr(sendmsg4)]
fn mesh_sendmsg4(ctx: SockAddrContext) -> i32 {
    dns::send(&SockAddr::v4(ctx)).code()
}

/// A datagram to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
fn mesh_sendmsg6(ctx: SockAddrContext) -> i32 {
    dns::send(&SockAddr::v6(ctx)).code()
}

/// Whom an IPv4 socket hears from.
#[cgroup_sock_addr(recvmsg4)]
fn mesh_recvmsg4(ctx: SockAddrContext) -> i32 {
    dns::show(&SockAddr::v4(ctx));
    ctx::Outcome::Allow.code()
}

/// Whom an IPv6 socket hears from.
#[cgroup_sock_addr(recvmsg6)]
fn mesh_recvmsg6(ctx: SockAddrContext) -> i32 {
    dns::show(&SockAddr::v6(ctx));
    ctx::Outcome::Allow.code()
}

/// Events of the pod's TCP sockets.
#[sock_ops]
fn mesh_sock_ops(ctx: SockOpsContext) -> u32 {
    sock_ops::on_event(&SockEvent::new(ctx));
    ctx::SOCK_OPS_DONE
}

/// Events of the agent's own TCP sockets.
#[sock_ops]
fn mesh_leg_ops(ctx: SockOpsContext) -> u32 {
    legs::on_agents_event(&SockEvent::new(ctx));
    ctx::SOCK_OPS_DONE
}

/// A message of a joined socket.
#[sk_msg]
fn mesh_sk_msg(ctx: SkMsgContext) -> u32 {
    sk_msg::route(&message::Message::new(ctx));
    message::PASS
}

/// A socket was read.
#[btf_tracepoint(function = "sock_recv_length")]
fn mesh_read(ctx: BtfTracePointContext) -> i32 {
    reads::on_read(&message::Read::new(ctx));
    0
}

/// A new connection for a socket of the pod's network namespace.
#[sk_lookup]
fn mesh_sk_lookup(ctx: SkLookupContext) -> u32 {
    sk_lookup::steer(&Lookup::new(ctx)).code()
}

/// The same of a pod whose address means another pod by now.
#[sk_lookup]
fn mesh_sk_refuse(ctx: SkLookupContext) -> u32 {
    sk_lookup::refuse_all(&Lookup::new(ctx)).code()
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}

/// What the kernel reads before it lets a program call GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The host build exists only to be linted.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
