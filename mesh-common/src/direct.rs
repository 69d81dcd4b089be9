//! Connections between two pods of one node that go past the agent: `repr(C)`, no padding, every bit pattern valid.
//!
//! Must not know: who allowed them.

use crate::layout::Endpoint;

/// Both ends of a connection, named by what they are to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Hash))]
pub struct Ends {
    /// The end that dialled: its own address and port.
    pub client: Endpoint,
    /// The end that accepts, as packets name it: never the address of a Service.
    pub server: Endpoint,
}

/// What a pod dials, of which a verdict may hold.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Hash))]
pub struct DirectKey {
    /// The dialling pod's netns cookie.
    pub netns: u64,
    /// A pod's own address, or that of a Service.
    pub dialled: Endpoint,
    /// Always zero: keeps the size a multiple of eight without hidden padding.
    pub reserved: u32,
}

/// The most verdicts of a node; connects to whatever has none go to the agent.
pub const MAX_VERDICTS: u32 = 65_536;

/// The most endpoints that a verdict holds; behind a Service with more the agent chooses.
pub const MAX_ENDPOINTS: usize = 8;

/// A connect to its key needs no agent: any of these endpoints may be chosen for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How many of the endpoints are meant; 1 to [`MAX_ENDPOINTS`].
    pub count: u32,
    /// Always zero: keeps the size a multiple of eight.
    pub reserved: u32,
    /// Where the connection goes: ends of pods of this node. Those from `count` on are zero.
    pub endpoints: [Endpoint; MAX_ENDPOINTS],
}

/// What was chosen for a connect, until its SYN leaves.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What the application dialled.
    pub dialled: Endpoint,
    /// Where its connection goes.
    pub server: Endpoint,
}

/// What one end of a direct flow did; each end writes its own, from the events of its socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndStats {
    /// Cookie of the socket, as `bpf_get_socket_cookie` and `inet_diag` name it; 0 before there is one.
    pub cookie: u64,
    /// Bytes that it sent over TCP and the other end acknowledged, without SYN and FIN.
    pub sent: u64,
    /// Bytes that it sent through the splice, past TCP.
    pub spliced: u64,
    /// Smoothed round-trip time in microseconds; 0 before the first sample.
    pub srtt_us: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// 1 when the socket is closed, else 0.
    pub closed: u32,
    /// Always zero: keeps the size a multiple of eight without hidden padding.
    pub reserved: u32,
}

/// A direct flow; key: its [`Ends`]. Registered before its SYN leaves.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The dialling pod's netns cookie.
    pub client_netns: u64,
    /// The accepting pod's netns cookie; 0 until it accepted.
    pub server_netns: u64,
    /// When the SYN left, in nanoseconds of `CLOCK_MONOTONIC`. Tells two flows of the same ends apart.
    pub started_ns: u64,
    /// When the dialling socket was closed; 0 while it is not.
    pub ended_ns: u64,
    /// The dialling end.
    pub client: EndStats,
    /// The accepting end.
    pub server: EndStats,
    /// What the application dialled: the server's end, or the address of a Service.
    pub dialled: Endpoint,
    /// 1 once the handshake was over on the dialling side, else 0.
    pub established: u32,
}

/// A direct flow that ended, with what was last known of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedFlow {
    /// Its key.
    pub ends: Ends,
    /// All that was counted.
    pub flow: Flow,
}

/// How much of a direct flow the agents of this node have put into their metrics already; key: its [`Ends`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Which flow of these ends: its start.
    pub started_ns: u64,
    /// Bytes from the dialling end.
    pub to_server: u64,
    /// Bytes to the dialling end.
    pub to_client: u64,
}

#[cfg(feature = "user")]
mod user {
    use super::{Chosen, ClosedFlow, Counted, DirectKey, EndStats, Ends, Flow, Verdict};

    // SAFETY: `repr(C)`, ten `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Ends {}
    // SAFETY: `repr(C)`, 8 + 20 + 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for DirectKey {}
    // SAFETY: `repr(C)`, forty-two `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Verdict {}
    // SAFETY: `repr(C)`, ten `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Chosen {}
    // SAFETY: `repr(C)`, 3 * 8 + 4 * 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for EndStats {}
    // SAFETY: `repr(C)`, 4 * 8 + 2 * 40 + 20 + 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: `repr(C)`, 40 + 136 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for ClosedFlow {}
    // SAFETY: `repr(C)`, three `u64`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Counted {}

    impl ClosedFlow {
        /// Reads what a kernel program put into the ring buffer; `None` when it is of another size.
        pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
            if bytes.len() != size_of::<Self>() {
                return None;
            }
            let record: *const Self = bytes.as_ptr().cast();
            // SAFETY: the slice holds exactly one value, every bit pattern is valid, and the read asks no alignment.
            Some(unsafe { record.read_unaligned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_have_no_padding() {
        assert_eq!(size_of::<Ends>(), 40);
        assert_eq!(size_of::<DirectKey>(), 32);
        assert_eq!(size_of::<Verdict>(), 168);
        assert_eq!(size_of::<Chosen>(), 40);
        assert_eq!(size_of::<EndStats>(), 40);
        assert_eq!(size_of::<Flow>(), 136);
        assert_eq!(size_of::<ClosedFlow>(), 176);
        assert_eq!(size_of::<Counted>(), 24);
    }
}
