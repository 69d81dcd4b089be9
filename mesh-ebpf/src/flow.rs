//! Direct flows in their map: the only place that writes into one.
//!
//! Must not know: contexts, who allowed a flow.

use mesh_common::counter::Counter;
use mesh_common::direct::{EndStats, Ends, Flow};
use mesh_common::layout::Endpoint;

use crate::maps;

/// Writes one field of a value in the map.
macro_rules! set {
    ($value:expr, $field:ident, $to:expr) => {{
        // SAFETY: a map value outlives the program run; only an address is taken, inside the value.
        let slot = unsafe { &raw mut (*$value).$field };
        // SAFETY: as above; aligned, and each field is written by the events of one socket only.
        unsafe { slot.write_volatile($to) }
    }};
}

/// Reads one field of a value in the map.
macro_rules! read {
    ($value:expr, $field:ident) => {{
        // SAFETY: a map value outlives the program run; only an address is taken, inside the value.
        let slot = unsafe { &raw const (*$value).$field };
        // SAFETY: as above; aligned, and every bit pattern is valid.
        unsafe { slot.read_volatile() }
    }};
}

/// Which end of a flow a socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What a socket tells of itself, all of it since it was made.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) sent: u64,
    pub(crate) srtt_us: u32,
    pub(crate) retransmits: u32,
}

/// A flow in the map; valid until the end of the program run.
#[derive(Clone, Copy)]
pub(crate) struct LiveFlow(*mut Flow);

impl LiveFlow {
    #[inline(always)]
    pub(crate) fn find(ends: &Ends) -> Option<Self> {
        maps::flow(ends).map(Self)
    }

    /// Counts bytes that one end spliced. Its socket is locked: nobody else counts.
    #[inline(always)]
    pub(crate) fn count_spliced(self, side: Side, bytes: u64) {
        let end = self.slot(side);
        let spliced = read!(end, spliced).wrapping_add(bytes);
        set!(end, spliced, spliced);
    }

    /// The flow of these ends whose `side` is the socket `cookie`: never an earlier flow of the same ends.
    #[inline(always)]
    pub(crate) fn of_socket(ends: &Ends, side: Side, cookie: u64) -> Option<Self> {
        let flow = Self::find(ends)?;
        (read!(flow.slot(side), cookie) == cookie).then_some(flow)
    }

    /// Whether the socket that dialled lives.
    #[inline(always)]
    pub(crate) fn is_open_for_syn(self) -> bool {
        read!(self.slot(Side::Client), closed) == 0
    }

    /// Whether no socket of it is left.
    #[inline(always)]
    pub(crate) fn is_over(self) -> bool {
        let server = self.slot(Side::Server);
        !self.is_open_for_syn() && (read!(server, cookie) == 0 || read!(server, closed) != 0)
    }

    #[inline(always)]
    pub(crate) fn establish(self) {
        set!(self.0, established, 1);
    }

    /// The accepting socket is `cookie` of `netns`.
    #[inline(always)]
    pub(crate) fn accept(self, netns: u64, cookie: u64) {
        set!(self.0, server_netns, netns);
        set!(self.slot(Side::Server), cookie, cookie);
    }

    #[inline(always)]
    pub(crate) fn note(self, side: Side, sample: Sample) {
        let stats = self.slot(side);
        set!(stats, sent, sample.sent);
        set!(stats, srtt_us, sample.srtt_us);
        set!(stats, retransmits, sample.retransmits);
    }

    #[inline(always)]
    pub(crate) fn close(self, side: Side, now_ns: u64) {
        if side == Side::Client {
            set!(self.0, ended_ns, now_ns);
        }
        set!(self.slot(side), closed, 1);
    }

    /// Hands the flow over to the agent and forgets it. When both ends close at once, one of them does it; should
    /// each have missed the other's close, the agent finds it in the map.
    #[inline(never)]
    pub(crate) fn report(self, ends: &Ends) {
        let Some(mut entry) = maps::closed_flow() else {
            if maps::remove_flow(ends) {
                maps::count(Counter::Unreported);
            }
            return;
        };
        let report = entry.as_mut_ptr();
        set!(report, ends, *ends);
        // SAFETY: only an address is taken, inside the reserved room.
        let copy = unsafe { &raw mut (*report).flow };
        // SAFETY: a map value outlives the program run, and the room is as large and not part of it.
        unsafe { self.0.copy_to_nonoverlapping(copy, 1) };
        if maps::remove_flow(ends) {
            entry.submit(0);
        } else {
            entry.discard(0);
        }
    }

    #[inline(always)]
    pub(crate) fn client_netns(self) -> u64 {
        read!(self.0, client_netns)
    }

    #[inline(always)]
    pub(crate) fn dialled(self) -> Endpoint {
        read!(self.0, dialled)
    }

    #[inline(always)]
    fn slot(self, side: Side) -> *mut EndStats {
        match side {
            // SAFETY: only an address is taken, inside the value.
            Side::Client => unsafe { &raw mut (*self.0).client },
            // SAFETY: as above.
            Side::Server => unsafe { &raw mut (*self.0).server },
        }
    }
}
