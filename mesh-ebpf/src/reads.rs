//! Reads of sockets: what the writer must know before it may splice.
//!
//! The only hook that is not a pod's own: the kernel calls it for every `recvmsg` of the node. A socket that was not joined
//! costs one lookup.

use crate::message::Read;
use crate::pipes;

#[inline(always)]
pub(crate) fn on_read(read: &Read) {
    let Some(copied_seq) = read.copied_seq(pipes::copied_seq_offset()) else {
        return;
    };
    let cookie = read.cookie();
    let Some(reader) = pipes::reader(cookie) else {
        return;
    };
    let flags = read.flags();
    if flags & (MSG_PEEK | MSG_ERRQUEUE) != 0 {
        return;
    }
    // A blocking read of a joined socket ends with EAGAIN at any wake-up; urgent bytes would be returned in line.
    if flags & MSG_DONTWAIT == 0 || flags & MSG_OOB != 0 {
        if reader.needs_tcp == 0 {
            pipes::keep_tcp(cookie);
        }
        return;
    }
    if let Ok(returned @ 1..) = u32::try_from(read.returned()) {
        let spliced = reader.spliced_of(returned, copied_seq);
        pipes::read(cookie, returned, spliced, copied_seq);
    }
}

const MSG_OOB: i32 = 0x1;
const MSG_PEEK: i32 = 0x2;
const MSG_DONTWAIT: i32 = 0x40;
const MSG_ERRQUEUE: i32 = 0x2000;
