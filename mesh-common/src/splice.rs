//! The splice: what lies in its maps, and when a message may take it.
//!
//! A message that is spliced goes into a queue of the receiving socket that is read before TCP's. So it may be spliced only
//! while nothing that was sent before it waits in TCP: what the reader took out of TCP last is what the writer put in last.
//! And it should be while anything waits in that queue: one read never returns bytes of both, and readers of edge-triggered
//! epoll take a short read for the end. Must not know: who allowed the flow.

use crate::direct::Ends;
use crate::layout::Endpoint;

/// A message of at least this many bytes takes TCP, which moves large ones faster, unless spliced ones wait before it.
pub const LARGE_MESSAGE: u32 = 16 * 1024;

/// How many spliced bytes may wait for a reader. What comes on top takes TCP, which makes the writer wait. As much as TCP
/// itself keeps for a reader that stopped (`net.ipv4.tcp_rmem`, the largest by default, is 6 MiB).
pub const WINDOW: u64 = 4 << 20;

/// How often a socket must have been read with `recvmsg` before anything is spliced to it: whoever blocks in it,
/// reads with `splice(2)` or out of band has shown it by then.
pub const READS_BEFORE: u32 = 32;

/// Sockets whose reads return at least this many bytes on average are left to TCP, which moves bulk faster.
pub const BULK_READ: u32 = 8 * 1024;

/// Both ends of a socket, as it names them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketEnds {
    /// Its own.
    pub local: Endpoint,
    /// The other's.
    pub remote: Endpoint,
}

impl SocketEnds {
    /// The same as the other socket names them.
    #[inline(always)]
    #[must_use]
    pub const fn turned(&self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
        }
    }

    /// The flow that it is an end of: the dialling one or the accepting one.
    #[inline(always)]
    pub const fn of_flow(&self, is_client: bool) -> Ends {
        let (client, server) = if is_client {
            (self.local, self.remote)
        } else {
            (self.remote, self.local)
        };
        Ends { client, server }
    }
}

/// What is known of a socket that writes; key: its [`SocketEnds`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Cookie of the socket itself.
    pub own: u64,
    /// Cookie of the socket that reads; 0 until it can be spliced to, which at the agent's ends the agent decides.
    pub reader: u64,
    /// Bytes that were spliced.
    pub spliced: u64,
    /// 1 when it is the end that dialled, else 0.
    pub is_client: u32,
    /// Always zero: keeps the size a multiple of eight.
    pub reserved: u32,
}

impl Writer {
    /// How many bytes wait in the splice, when `reader` is what it splices to. `None` when the counts contradict each other.
    #[inline(always)]
    pub const fn unread(&self, reader: &Reader) -> Option<u64> {
        self.spliced.checked_sub(reader.spliced)
    }
}

/// What is known of a socket that reads; key: its cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Spliced bytes that were read.
    pub spliced: u64,
    /// Up to which sequence number it read what came over TCP, as of its last read.
    pub copied_seq: u32,
    /// How often it was read.
    pub reads: u32,
    /// 1 when it is read in a way that only TCP serves, else 0.
    pub needs_tcp: u32,
    /// Bytes that its reads returned since they last told a habit.
    pub bytes: u32,
    /// What its reads say of sockets like it.
    pub habit: HabitKey,
}

/// Sockets in a pod's namespace that are read alike: those that its application accepts at an end, those that it dials to
/// one, or the agent's ends of either.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HabitKey {
    /// The pod's netns cookie.
    pub netns: u64,
    /// The accepting end, in this pod or in another one; as it was dialled, where the agent relays.
    pub server: Endpoint,
    /// Who reads: [`ACCEPTS`], [`DIALS`] or [`RELAYS`].
    pub role: u32,
}

/// The application of the pod, of what it accepted.
pub const ACCEPTS: u32 = 0;
/// The application of the pod, of what it dialled.
pub const DIALS: u32 = 1;
/// The agent, at its end of a connection with the application of the pod. Such a habit exists only where the agent said that
/// it relays bytes there: other connections with it are left to TCP.
pub const RELAYS: u32 = 2;

/// How such sockets are read. Only what never blocks in a read may be joined: the kernel ends a blocking read of a joined
/// socket with `EAGAIN` whenever anything wakes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habit {
    /// 1 when the last of them that told was read [`READS_BEFORE`] times, and little at a time: else joining costs
    /// more than it gains.
    pub is_worthwhile: u32,
    /// 1 when any was read in a way that only TCP serves.
    pub needs_tcp: u32,
}

impl Habit {
    /// Whether a new socket of that kind may be joined.
    #[inline(always)]
    pub const fn is_good(&self) -> bool {
        self.is_worthwhile != 0 && self.needs_tcp == 0
    }

    /// What `reads` reads of a socket, the latest of which returned `bytes` bytes together since it was told last, say:
    /// whether joining such sockets is worthwhile. `None` when it is not time to tell.
    #[inline(always)]
    pub const fn told_by(reads: u32, bytes: u32) -> Option<bool> {
        if reads.is_multiple_of(READS_BEFORE) {
            Some(bytes / READS_BEFORE < BULK_READ)
        } else {
            None
        }
    }
}

impl Reader {
    /// A socket that nobody read yet.
    #[inline(always)]
    pub const fn new(habit: HabitKey) -> Self {
        Self {
            spliced: 0,
            copied_seq: 0,
            reads: 0,
            needs_tcp: 0,
            bytes: 0,
            habit,
        }
    }

    /// Whether a message of `size` bytes may be spliced to it by a writer that spliced `spliced` bytes so far and whose
    /// TCP goes on at `write_seq`. While the splice `is_on` not, only what must follow spliced bytes is.
    #[inline(always)]
    pub const fn may_get(&self, size: u32, spliced: u64, write_seq: u32, is_on: bool) -> bool {
        // A count that went wrong reads as a full window.
        let waiting = spliced.wrapping_sub(self.spliced);
        let is_wanted = waiting != 0 || (is_on && size < LARGE_MESSAGE);
        is_wanted
            && self.needs_tcp == 0
            && self.reads >= READS_BEFORE
            && self.copied_seq == write_seq
            && waiting <= WINDOW
    }

    /// How many of `read` bytes were spliced ones, when TCP had been read up to `copied_seq` afterwards.
    #[inline(always)]
    pub const fn spliced_of(&self, read: u32, copied_seq: u32) -> u32 {
        // Nothing is spliced before the first read, so what it took came over TCP.
        if self.reads == 0 {
            return 0;
        }
        read.saturating_sub(copied_seq.wrapping_sub(self.copied_seq))
    }
}

#[cfg(feature = "user")]
mod user {
    use super::{Habit, HabitKey, Reader, SocketEnds, Writer};

    // SAFETY: `repr(C)`, ten `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for SocketEnds {}
    // SAFETY: `repr(C)`, 3 * 8 + 2 * 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Writer {}
    // SAFETY: `repr(C)`, 8 + 4 * 4 + 32 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Reader {}
    // SAFETY: `repr(C)`, 8 + 20 + 4 bytes aligned to 8: no padding, every bit pattern valid.
    unsafe impl aya::Pod for HabitKey {}
    // SAFETY: `repr(C)`, two `u32`s: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Habit {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Addr;

    const READ: Reader = Reader {
        spliced: 1000,
        copied_seq: 77,
        reads: READS_BEFORE,
        needs_tcp: 0,
        bytes: 0,
        habit: HABIT,
    };
    const HABIT: HabitKey = HabitKey {
        netns: 1,
        server: Endpoint {
            addr: Addr([0; 4]),
            port: 1,
        },
        role: ACCEPTS,
    };

    #[test]
    fn only_what_is_worthwhile_and_never_failed_is_a_good_habit() {
        for (is_worthwhile, needs_tcp, is_good) in [(0, 0, false), (1, 0, true), (1, 1, false), (0, 1, false)]
        {
            let habit = Habit {
                is_worthwhile,
                needs_tcp,
            };
            assert_eq!(habit.is_good(), is_good);
        }
    }

    #[test]
    fn every_so_many_reads_tell_whether_they_took_little() {
        for (reads, bytes, told) in [
            (1, 64, None),
            (READS_BEFORE - 1, 64, None),
            (READS_BEFORE, 64 * READS_BEFORE, Some(true)),
            (READS_BEFORE, BULK_READ * READS_BEFORE - 1, Some(true)),
            (READS_BEFORE, BULK_READ * READS_BEFORE, Some(false)),
            (READS_BEFORE + 1, u32::MAX, None),
            (READS_BEFORE * 2, u32::MAX, Some(false)),
            (READS_BEFORE * 2, 0, Some(true)),
        ] {
            assert_eq!(Habit::told_by(reads, bytes), told, "{reads} {bytes}");
        }
    }

    #[test]
    fn a_small_message_is_spliced_to_a_reader_that_is_known_and_read_all_of_tcp() {
        assert!(READ.may_get(64, 1000, 77, true));
        assert!(!READ.may_get(64, 1000, 77, false));
    }

    #[test]
    fn whatever_follows_unread_spliced_bytes_is_spliced() {
        for (size, spliced) in [(64, 1001), (LARGE_MESSAGE, 1001), (LARGE_MESSAGE, 1000 + WINDOW)] {
            for is_on in [true, false] {
                assert!(READ.may_get(size, spliced, 77, is_on), "{size} {spliced}");
            }
        }
    }

    #[test]
    fn everything_else_takes_tcp() {
        let cases = [
            ("large", READ, LARGE_MESSAGE, 1000, 77),
            ("TCP holds bytes", READ, 64, 1000, 78),
            ("TCP held bytes of the last round", READ, 64, 1000, 76),
            ("the window is full", READ, 64, 1001 + WINDOW, 77),
            ("a count went wrong", READ, 64, 999, 77),
            (
                "not known yet",
                Reader {
                    reads: READS_BEFORE - 1,
                    ..READ
                },
                64,
                1000,
                77,
            ),
            (
                "read with splice(2)",
                Reader { needs_tcp: 1, ..READ },
                64,
                1000,
                77,
            ),
        ];
        for (why, reader, size, spliced, write_seq) in cases {
            assert!(!reader.may_get(size, spliced, write_seq, true), "{why}");
        }
    }

    #[test]
    fn tells_spliced_bytes_from_those_of_tcp() {
        for (read, copied_seq, spliced) in [(10, 77, 10), (10, 87, 0), (10, 80, 7), (10, 100, 0)] {
            assert_eq!(READ.spliced_of(read, copied_seq), spliced, "{read} {copied_seq}");
        }
        assert_eq!(Reader::new(HABIT).spliced_of(10, 5), 0);
        let wrapping = Reader {
            copied_seq: u32::MAX,
            ..READ
        };
        assert_eq!(wrapping.spliced_of(10, 3), 6);
    }

    #[test]
    fn what_was_spliced_and_not_read_waits() {
        let writer = Writer {
            own: 1,
            reader: 2,
            spliced: 1010,
            is_client: 0,
            reserved: 0,
        };
        assert_eq!(writer.unread(&READ), Some(10));
        let wrong = Writer {
            spliced: 999,
            ..writer
        };
        assert_eq!(wrong.unread(&READ), None);
    }

    #[test]
    fn keys_and_values_have_no_padding() {
        assert_eq!(size_of::<SocketEnds>(), 40);
        assert_eq!(size_of::<Writer>(), 32);
        assert_eq!(size_of::<Reader>(), 56);
    }
}
