//! Reads and writes of kernel context: nothing else in this crate touches a context pointer.
//!
//! Every field is read by itself and volatile: the verifier refuses a load that the compiler widened or moved to a
//! computed pointer. Must not know: maps, decisions.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock};
use aya_ebpf::helpers::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_set_retval, bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::maps::SockHash;
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};
use mesh_common::layout::{Addr, Endpoint, is_outbound_port};
use mesh_common::splice::SocketEnds;

/// What a `sock_ops` program returns when it has nothing to say.
pub(crate) const SOCK_OPS_DONE: u32 = 1;

/// Reads one scalar field of a context.
macro_rules! read {
    ($ptr:expr, $($field:tt)+) => {{
        // SAFETY: the kernel passes a valid context for the length of the program; the verifier checks the offset.
        let field = unsafe { &raw const (*$ptr).$($field)+ };
        // SAFETY: as above; the field is aligned and always initialised.
        unsafe { field.read_volatile() }
    }};
}

/// Reads a four-word IPv6 address, word by word.
macro_rules! read_v6 {
    ($ptr:expr, $field:ident) => {
        Addr([
            read!($ptr, $field[0]),
            read!($ptr, $field[1]),
            read!($ptr, $field[2]),
            read!($ptr, $field[3]),
        ])
    };
}

/// Writes one scalar field of a context.
macro_rules! write {
    ($ptr:expr, $value:expr, $($field:tt)+) => {{
        // SAFETY: the kernel passes a valid context for the length of the program; the verifier checks the offset.
        let field = unsafe { &raw mut (*$ptr).$($field)+ };
        // SAFETY: as above; the verifier lets the hooks that call this write the field.
        unsafe { field.write_volatile($value) }
    }};
}

pub(crate) use {read, read_v6};

/// What a cgroup address hook answers.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    Allow,
    Refuse,
}

impl Outcome {
    pub(crate) const fn code(self) -> i32 {
        match self {
            Self::Allow => 1,
            Self::Refuse => 0,
        }
    }
}

/// A socket and the address that it dials (connect) or talks to (getpeername).
pub(crate) struct SockAddr {
    ctx: SockAddrContext,
    is_v4: bool,
}

impl SockAddr {
    #[inline(always)]
    pub(crate) fn v4(ctx: SockAddrContext) -> Self {
        Self { ctx, is_v4: true }
    }

    #[inline(always)]
    pub(crate) fn v6(ctx: SockAddrContext) -> Self {
        Self { ctx, is_v4: false }
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(read!(self.ctx.sock_addr, protocol), IPPROTO_TCP | IPPROTO_MPTCP)
    }

    #[inline(always)]
    pub(crate) fn is_udp(&self) -> bool {
        read!(self.ctx.sock_addr, protocol) == IPPROTO_UDP
    }

    /// The other end, as the hook was given it.
    #[inline(always)]
    pub(crate) fn peer(&self) -> Endpoint {
        let addr = if self.is_v4 {
            Addr::v4(read!(self.ctx.sock_addr, user_ip4))
        } else {
            read_v6!(self.ctx.sock_addr, user_ip6)
        };
        Endpoint {
            addr,
            port: swap_port(read!(self.ctx.sock_addr, user_port)),
        }
    }

    /// Replaces the other end. `peer` must be of the socket's family, or mapped for an IPv6 socket.
    #[inline(always)]
    pub(crate) fn set_peer(&self, peer: &Endpoint) {
        let [a, b, c, d] = peer.addr.0;
        if self.is_v4 {
            write!(self.ctx.sock_addr, d, user_ip4);
        } else {
            write!(self.ctx.sock_addr, a, user_ip6[0]);
            write!(self.ctx.sock_addr, b, user_ip6[1]);
            write!(self.ctx.sock_addr, c, user_ip6[2]);
            write!(self.ctx.sock_addr, d, user_ip6[3]);
        }
        write!(self.ctx.sock_addr, swap_port(peer.port), user_port);
    }

    /// The socket's own end; `None` only where the kernel gives no socket.
    #[inline(always)]
    pub(crate) fn local(&self) -> Option<Endpoint> {
        let sk: *mut bpf_sock = read!(self.ctx.sock_addr, __bindgen_anon_1.sk);
        if sk.is_null() {
            return None;
        }
        let addr = if self.is_v4 {
            Addr::v4(read!(sk, src_ip4))
        } else {
            read_v6!(sk, src_ip6)
        };
        Some(Endpoint {
            addr,
            port: read!(sk, src_port),
        })
    }

    /// Whether the socket is of the IPv4 family.
    #[inline(always)]
    pub(crate) fn is_v4_socket(&self) -> bool {
        self.is_v4
    }

    #[inline(always)]
    pub(crate) fn netns(&self) -> u64 {
        // SAFETY: takes the context of this very program.
        unsafe { bpf_get_netns_cookie(self.ctx.sock_addr.cast()) }
    }

    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: takes the context of this very program.
        unsafe { bpf_get_socket_cookie(self.ctx.sock_addr.cast()) }
    }
}

/// Makes the system call fail with `errno` instead of `EPERM`. Only where the loader found the helper.
#[inline(always)]
pub(crate) fn fail_with(errno: i32) {
    // SAFETY: a scalar argument; the verifier checks that the hook may call it.
    let _: i32 = unsafe { bpf_set_retval(-errno) };
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: takes nothing, and may be called by every program.
    unsafe { bpf_ktime_get_ns() }
}

/// An event of a TCP socket.
pub(crate) struct SockEvent {
    ctx: SockOpsContext,
}

impl SockEvent {
    #[inline(always)]
    pub(crate) fn new(ctx: SockOpsContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    pub(crate) fn op(&self) -> u32 {
        read!(self.ctx.ops, op)
    }

    /// The state that the socket leaves, in a state-change event.
    #[inline(always)]
    pub(crate) fn old_state(&self) -> u32 {
        read!(self.ctx.ops, __bindgen_anon_1.args[0])
    }

    /// The state that the socket is in.
    #[inline(always)]
    pub(crate) fn state(&self) -> u32 {
        read!(self.ctx.ops, state)
    }

    /// Sequence numbers that the other end acknowledged, those of SYN and FIN among them.
    #[inline(always)]
    pub(crate) fn bytes_acked(&self) -> u64 {
        read!(self.ctx.ops, bytes_acked)
    }

    /// Whether nothing that was sent is unacknowledged.
    #[inline(always)]
    pub(crate) fn is_all_acknowledged(&self) -> bool {
        read!(self.ctx.ops, snd_una) == read!(self.ctx.ops, snd_nxt)
    }

    /// Smoothed round-trip time; the kernel keeps eight times as much.
    #[inline(always)]
    pub(crate) fn srtt_us(&self) -> u32 {
        read!(self.ctx.ops, srtt_us) >> 3
    }

    /// Segments that were sent again.
    #[inline(always)]
    pub(crate) fn retransmits(&self) -> u32 {
        read!(self.ctx.ops, total_retrans)
    }

    /// The state that the socket goes to, in a state-change event.
    #[inline(always)]
    pub(crate) fn new_state(&self) -> u32 {
        read!(self.ctx.ops, __bindgen_anon_1.args[1])
    }

    /// The socket's own end; the port comes in host order here.
    #[inline(always)]
    pub(crate) fn local(&self) -> Endpoint {
        let addr = of_family(
            read!(self.ctx.ops, family),
            read!(self.ctx.ops, local_ip4),
            read_v6!(self.ctx.ops, local_ip6),
        );
        Endpoint {
            addr,
            port: read!(self.ctx.ops, local_port),
        }
    }

    /// The other end; the port comes in network order, in the upper half, here.
    #[inline(always)]
    pub(crate) fn remote(&self) -> Endpoint {
        let addr = of_family(
            read!(self.ctx.ops, family),
            read!(self.ctx.ops, remote_ip4),
            read_v6!(self.ctx.ops, remote_ip6),
        );
        Endpoint {
            addr,
            port: u32::from_be(read!(self.ctx.ops, remote_port)),
        }
    }

    /// Whether the socket connects to an agent's port of the pod's own address.
    #[inline(always)]
    pub(crate) fn dials_agent(&self) -> bool {
        let remote = self.remote();
        is_outbound_port(remote.port) && remote.addr.is(&self.local().addr)
    }

    #[inline(always)]
    pub(crate) fn netns(&self) -> u64 {
        // SAFETY: takes the context of this very program.
        unsafe { bpf_get_netns_cookie(self.ctx.ops.cast()) }
    }

    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: takes the context of this very program.
        unsafe { bpf_get_socket_cookie(self.ctx.ops.cast()) }
    }

    /// Asks for one more kind of event on this socket; what others asked for stays.
    #[inline(always)]
    pub(crate) fn ask_for(&self, flag: u32) -> bool {
        let flags = read!(self.ctx.ops, bpf_sock_ops_cb_flags) | flag;
        // SAFETY: takes the context of this very program. The flags are small and positive.
        let code = unsafe { bpf_sock_ops_cb_flags_set(self.ctx.ops, flags.cast_signed()) };
        code == 0
    }

    /// Puts the socket into `sockets`; whether it could be.
    #[inline(always)]
    pub(crate) fn join(&self, sockets: &SockHash<SocketEnds>, ends: SocketEnds) -> bool {
        // SAFETY: the context of this very program, which nothing else refers to during the call.
        let ops = unsafe { &mut *self.ctx.ops };
        sockets.update(ends, ops, 0).is_ok()
    }
}

/// A packet that looks for a listening socket.
pub(crate) struct Lookup {
    ctx: SkLookupContext,
}

impl Lookup {
    #[inline(always)]
    pub(crate) fn new(ctx: SkLookupContext) -> Self {
        Self { ctx }
    }

    /// The context, for the map that assigns a socket.
    #[inline(always)]
    pub(crate) fn ctx(&self) -> &SkLookupContext {
        &self.ctx
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        read!(self.raw(), protocol) == IPPROTO_TCP
    }

    #[inline(always)]
    pub(crate) fn is_udp(&self) -> bool {
        read!(self.raw(), protocol) == IPPROTO_UDP
    }

    /// Source and destination address of the packet.
    #[inline(always)]
    pub(crate) fn addrs(&self) -> (Addr, Addr) {
        let raw = self.raw();
        let family = read!(raw, family);
        let remote = of_family(family, read!(raw, remote_ip4), read_v6!(raw, remote_ip6));
        (
            remote,
            of_family(family, read!(raw, local_ip4), read_v6!(raw, local_ip6)),
        )
    }

    /// The port that the packet is from.
    #[inline(always)]
    pub(crate) fn remote_port(&self) -> u32 {
        u32::from(u16::from_be(read!(self.raw(), remote_port)))
    }

    /// The port that the packet is for.
    #[inline(always)]
    pub(crate) fn local_port(&self) -> u32 {
        read!(self.raw(), local_port)
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sk_lookup {
        self.ctx.as_ptr().cast()
    }
}

/// Chooses between addresses that were both read: a read in a branch would be merged with the other branch's into one
/// load from a computed pointer. The fields of the other family hold no address, but may be read.
#[inline(always)]
pub(crate) fn of_family(family: u32, v4: u32, v6: Addr) -> Addr {
    if family == AF_INET { Addr::v4(v4) } else { v6 }
}

/// A port of a socket address, 16 bits in network order held in 32, to host order; its own inverse.
#[inline(always)]
const fn swap_port(port: u32) -> u32 {
    if cfg!(target_endian = "little") {
        (port & 0xff) << 8 | (port >> 8) & 0xff
    } else {
        port
    }
}

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// RFC 8684; Go's `net/http` listens and dials with it.
const IPPROTO_MPTCP: u32 = 262;
