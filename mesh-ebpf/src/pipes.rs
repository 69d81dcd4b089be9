//! The maps of the splice: who writes each, who reads it. Names are the contract with `mesh-agent/src/kernel/splice`.
//!
//! Must not know: contexts.

use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, SockHash};
use mesh_common::splice::{Habit, HabitKey, READS_BEFORE, Reader, SocketEnds, Writer};

use crate::maps::copy;

/// The address of a field of a map value.
macro_rules! slot {
    ($value:expr, $field:ident) => {{
        // SAFETY: a map value outlives the program run; only an address is made, inside the value.
        unsafe { &raw mut (*$value).$field }
    }};
}

/// Sockets that may be spliced to, by their ends.
///
/// Writer: `sock_ops`; the kernel takes a socket out when it is closed. Reader: `sk_msg`. Size: `max_flows` / 4. Evicts:
/// never. Full: the socket stays with TCP.
#[map]
static SPLICE: SockHash<SocketEnds> = SockHash::with_max_entries(65_536, 0);

/// Sockets that may splice, by their ends, and to which reader.
///
/// Writer: `sock_ops`, `sk_msg` of the socket itself; agent, which opens those between an application and itself. Reader:
/// `sk_msg`, agent. Size: `max_flows` / 4. Evicts: least recently
/// used. Full: the socket stays with TCP, as does one that is evicted.
#[map]
static WRITERS: LruHashMap<SocketEnds, Writer> = LruHashMap::with_max_entries(65_536, 0);

/// What sockets read, by cookie.
///
/// Writer: `sock_ops`, and the reads of the socket itself. Reader: `sk_msg` of the other end, agent. Size: `max_flows` / 4.
/// Evicts: least recently used. Full: the socket stays with TCP, as does one that is evicted.
#[map]
static READERS: LruHashMap<u64, Reader> = LruHashMap::with_max_entries(65_536, 0);

/// How the sockets of an application are read, and those of the agent where it relays bytes.
///
/// Writer: the reads of sockets; agent, which says where it relays. Reader: `sock_ops`. Size: `max_flows` / 16. Evicts: least recently used. Full: what is
/// evicted is found out again.
#[map]
static HABITS: LruHashMap<HabitKey, Habit> = LruHashMap::with_max_entries(16_384, 0);

/// 1 while messages may be spliced, else 0.
///
/// Writer: agent. Reader: `sk_msg`, `sock_ops`. Size: fixed, 1. Evicts: never. Full: cannot be.
#[map]
static SPLICE_SWITCH: Array<u32> = Array::with_max_entries(1, 0);

/// Offset of `write_seq` in the kernel's `struct tcp_sock`. Set by the loader from the kernel's own description.
#[unsafe(no_mangle)]
static WRITE_SEQ: Global<u32> = Global::new(0);

/// Offset of `copied_seq`, likewise.
#[unsafe(no_mangle)]
static COPIED_SEQ: Global<u32> = Global::new(0);

pub(crate) fn write_seq_offset() -> u32 {
    WRITE_SEQ.load()
}

pub(crate) fn copied_seq_offset() -> u32 {
    COPIED_SEQ.load()
}

pub(crate) fn is_on() -> bool {
    copy(SPLICE_SWITCH.get_ptr(0)) == Some(1)
}

pub(crate) fn sockets() -> &'static SockHash<SocketEnds> {
    &SPLICE
}

pub(crate) fn add_writer(ends: &SocketEnds, writer: &Writer) -> Result<(), i32> {
    WRITERS.insert(ends, writer, 0)
}

pub(crate) fn writer(ends: &SocketEnds) -> Option<Writer> {
    copy(WRITERS.get_ptr(ends))
}

/// Lets a writer splice to the socket `reader`.
pub(crate) fn open(ends: &SocketEnds, reader: u64) {
    if let Some(writer) = WRITERS.get_ptr_mut(ends) {
        put(slot!(writer, reader), reader);
    }
}

/// Counts bytes that a writer spliced. Its socket is locked: nobody else counts.
pub(crate) fn count_spliced(ends: &SocketEnds, bytes: u64) {
    if let Some(writer) = WRITERS.get_ptr_mut(ends) {
        let slot = slot!(writer, spliced);
        put(slot, take(slot).wrapping_add(bytes));
    }
}

pub(crate) fn add_reader(cookie: u64, reader: &Reader) -> Result<(), i32> {
    READERS.insert(cookie, reader, 0)
}

pub(crate) fn has_good_habit(key: &HabitKey) -> bool {
    copy(HABITS.get_ptr(key)).is_some_and(|habit| habit.is_good())
}

pub(crate) fn has_habit(key: &HabitKey) -> bool {
    HABITS.get_ptr(key).is_some()
}

pub(crate) fn reader(cookie: u64) -> Option<Reader> {
    copy(READERS.get_ptr(cookie))
}

/// Files one more read of a socket: `spliced` of the `returned` bytes were spliced ones. One that is read often stands for
/// others.
pub(crate) fn read(cookie: u64, returned: u32, spliced: u32, copied_seq: u32) {
    let Some(reader) = READERS.get_ptr_mut(cookie) else {
        return;
    };
    // Of two threads that read one socket at a time one may be lost: the writer then takes those bytes for unread.
    let count = slot!(reader, spliced);
    put(count, take(count).wrapping_add(u64::from(spliced)));
    // An old number that another thread writes over a new one keeps the writer at TCP.
    put(slot!(reader, copied_seq), copied_seq);
    let (reads, bytes) = (slot!(reader, reads), slot!(reader, bytes));
    let (so_many, so_much) = (
        take(reads).saturating_add(1),
        take(bytes).saturating_add(returned),
    );
    put(reads, so_many);
    put(bytes, so_much);
    if let Some(is_worthwhile) = Habit::told_by(so_many, so_much) {
        put(bytes, 0);
        learn(&take(slot!(reader, habit)), |habit| {
            habit.is_worthwhile = u32::from(is_worthwhile);
        });
    }
}

/// Keeps whatever is sent to the socket with TCP, and sockets like it, too.
pub(crate) fn keep_tcp(cookie: u64) {
    if let Some(reader) = READERS.get_ptr_mut(cookie) {
        put(slot!(reader, needs_tcp), 1);
        learn(&take(slot!(reader, habit)), |habit| habit.needs_tcp = 1);
    }
}

#[inline(always)]
fn learn(key: &HabitKey, change: impl FnOnce(&mut Habit)) {
    let before = copy(HABITS.get_ptr(key)).unwrap_or(Habit {
        is_worthwhile: 0,
        needs_tcp: 0,
    });
    let mut habit = before;
    change(&mut habit);
    if habit.is_worthwhile != before.is_worthwhile || habit.needs_tcp != before.needs_tcp {
        // Without room nothing is known of it, and nothing is joined.
        let _: Result<(), i32> = HABITS.insert(key, habit, 0);
    }
}

/// Forgets a socket that closes. One that lived too short to be spliced says that others like it will.
pub(crate) fn close(ends: &SocketEnds, cookie: u64) {
    if let Some(reader) = reader(cookie).filter(|reader| reader.reads < READS_BEFORE) {
        learn(&reader.habit, |habit| habit.is_worthwhile = 0);
    }
    forget(ends, cookie);
}

pub(crate) fn forget(ends: &SocketEnds, cookie: u64) {
    // Mostly there is nothing to forget, and what is left ages out.
    let _: Result<(), i32> = WRITERS.remove(ends);
    let _: Result<(), i32> = READERS.remove(cookie);
}

/// Reads a field of a map value.
#[inline(always)]
fn take<T: Copy>(slot: *const T) -> T {
    // SAFETY: made by `slot!`: in a map value, aligned, and every bit pattern is valid.
    unsafe { slot.read_volatile() }
}

/// Writes one; whoever reads it meanwhile sees the old or the new one.
#[inline(always)]
fn put<T>(slot: *mut T, value: T) {
    // SAFETY: made by `slot!`: in a map value, aligned.
    unsafe { slot.write_volatile(value) }
}
