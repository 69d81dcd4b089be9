//! What joined sockets send: past TCP where that can change neither their order nor what a reader sees.
//!
//! Whatever is in doubt takes TCP: a message is never refused here.

use crate::flow::{LiveFlow, Side};
use crate::message::Message;
use crate::pipes;

#[inline(always)]
pub(crate) fn route(message: &Message) {
    let size = message.size();
    let ends = message.ends();
    let Some(writer) = pipes::writer(&ends) else {
        return;
    };
    let Some(reader) = pipes::reader(writer.reader) else {
        return;
    };
    let Some(write_seq) = message.write_seq(pipes::write_seq_offset()) else {
        return;
    };
    // The socket is gone when the other end closed it: TCP says so to the application.
    let may_get = reader.may_get(size, writer.spliced, write_seq, pipes::is_on());
    if may_get && message.splice(pipes::sockets(), ends.turned()) {
        pipes::count_spliced(&ends, u64::from(size));
        // Both ends of what the agent relays lie on the pod's own address: it is no direct flow.
        if ends.local.addr.is(&ends.remote.addr) {
            return;
        }
        let side = if writer.is_client == 0 {
            Side::Server
        } else {
            Side::Client
        };
        if let Some(flow) = LiveFlow::of_socket(&ends.of_flow(side == Side::Client), side, writer.own) {
            flow.count_spliced(side, u64::from(size));
        }
    }
}
