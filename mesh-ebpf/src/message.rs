//! Messages and reads of joined sockets: all that touches the contexts of `sk_msg` and of the traced read.
//!
//! Must not know: maps other than the one that it is given, decisions.

use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_sock, sk_action, tcp_sock};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock};
use aya_ebpf::maps::SockHash;
use aya_ebpf::programs::{BtfTracePointContext, SkMsgContext};
use mesh_common::layout::{Addr, Endpoint};
use mesh_common::splice::SocketEnds;

use crate::ctx::{of_family, read, read_v6};

/// What `sk_msg` returns, whether it redirected the message or leaves it to TCP.
pub(crate) const PASS: u32 = sk_action::SK_PASS;

/// A message that a socket is about to send.
pub(crate) struct Message {
    ctx: SkMsgContext,
}

impl Message {
    #[inline(always)]
    pub(crate) fn new(ctx: SkMsgContext) -> Self {
        Self { ctx }
    }

    /// Its size in bytes.
    #[inline(always)]
    pub(crate) fn size(&self) -> u32 {
        read!(self.ctx.msg, size)
    }

    /// Both ends of the socket.
    #[inline(always)]
    pub(crate) fn ends(&self) -> SocketEnds {
        let msg = self.ctx.msg;
        let family = read!(msg, family);
        let local = of_family(family, read!(msg, local_ip4), read_v6!(msg, local_ip6));
        let remote = of_family(family, read!(msg, remote_ip4), read_v6!(msg, remote_ip6));
        SocketEnds {
            local: Endpoint {
                addr: local,
                port: read!(msg, local_port),
            },
            remote: Endpoint {
                addr: remote,
                // In network order, in the upper half.
                port: u32::from_be(read!(msg, remote_port)),
            },
        }
    }

    /// The sequence number at which the socket's TCP goes on; `offset` is where the kernel keeps it.
    #[inline(always)]
    pub(crate) fn write_seq(&self, offset: u32) -> Option<u32> {
        let sk: *mut bpf_sock = read!(self.ctx.msg, __bindgen_anon_3.sk);
        tcp_field(sk.cast(), offset)
    }

    /// Sends the message into the queue of the socket at `to`; whether there is one.
    #[inline(always)]
    pub(crate) fn splice(&self, sockets: &SockHash<SocketEnds>, to: SocketEnds) -> bool {
        sockets.redirect_msg(&self.ctx, to, BPF_F_INGRESS) == i64::from(PASS)
    }
}

/// A read of any socket that returned: `sock_recv_length(struct sock *, int, int)`.
pub(crate) struct Read {
    ctx: BtfTracePointContext,
}

impl Read {
    #[inline(always)]
    pub(crate) fn new(ctx: BtfTracePointContext) -> Self {
        Self { ctx }
    }

    /// How many bytes it returned, or an error below zero.
    #[inline(always)]
    pub(crate) fn returned(&self) -> i32 {
        self.ctx.arg(1)
    }

    /// The `MSG_` flags that it was called with.
    #[inline(always)]
    pub(crate) fn flags(&self) -> i32 {
        self.ctx.arg(2)
    }

    /// Up to which sequence number the socket's TCP was read; `offset` is where the kernel keeps it. `None` when the
    /// socket is none of TCP's.
    #[inline(always)]
    pub(crate) fn copied_seq(&self, offset: u32) -> Option<u32> {
        tcp_field(self.sk(), offset)
    }

    /// The socket's cookie.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: the socket is being read, so it is alive while the program runs.
        unsafe { bpf_get_socket_cookie(self.sk()) }
    }

    #[inline(always)]
    fn sk(&self) -> *mut c_void {
        self.ctx.arg(0)
    }
}

#[inline(always)]
fn tcp_field(sk: *mut c_void, offset: u32) -> Option<u32> {
    // SAFETY: takes a socket that the context holds, which is alive while the program runs.
    let tcp: *mut tcp_sock = unsafe { bpf_skc_to_tcp_sock(sk) };
    if tcp.is_null() {
        return None;
    }
    let offset = usize::try_from(offset).ok()?;
    // SAFETY: the verifier knows the type behind the pointer and checks that a field of this size is there.
    let field = unsafe { tcp.byte_add(offset) }.cast::<u32>();
    // SAFETY: as above; the kernel itself reads these fields without a lock.
    Some(unsafe { field.read_volatile() })
}

const BPF_F_INGRESS: u64 = 1;
