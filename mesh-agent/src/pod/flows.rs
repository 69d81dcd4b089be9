//! The flow table: what the kernel hooks file about a pod's sockets, and what the agent files for them.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::pod::legs::{Backlog, LegEnds};
use crate::pod::netns::NetnsCookie;

/// The kernel's memory of captured flows.
///
/// Every call is one map operation: it does not block, and may be made on the data path. Implemented by `kernel`
/// over eBPF maps, and by a fake in tests.
pub trait FlowTable: Send + Sync + fmt::Debug {
    /// Where the application wanted to connect, for the socket of namespace `netns` whose local end is `local`
    /// (the peer address of the connection that the agent accepted). `None` when it was not captured.
    fn original_destination(&self, netns: NetnsCookie, local: SocketAddr) -> io::Result<Option<SocketAddr>>;

    /// Whether the captured socket of `netns` whose local end is `local` is still open, shut for sending or not. A
    /// table that cannot know says no.
    fn is_open(&self, netns: NetnsCookie, local: SocketAddr) -> io::Result<bool> {
        let _ = (netns, local);
        Ok(false)
    }

    /// Where a connection from `peer`, accepted by an inbound listener of `netns`, was meant to go. The kernel steers
    /// it with both ends intact, so that is its `local` end; a fake, which cannot steer, says otherwise.
    fn inbound_destination(&self, netns: NetnsCookie, peer: SocketAddr, local: SocketAddr) -> SocketAddr {
        let _ = (netns, peer);
        local
    }

    /// Files that behind `bound`, a socket that the agent is about to connect to an application of `netns`,
    /// stands `peer`: `accept()` and `getpeername()` of the application then show `peer`.
    fn file_true_peer(&self, netns: NetnsCookie, bound: SocketAddr, peer: SocketAddr) -> io::Result<()>;

    /// The resolver that the in-pod DNS listener at `listener` stands for. `None` when no captured query ever went there.
    fn resolver_behind(&self, netns: NetnsCookie, listener: SocketAddr) -> io::Result<Option<SocketAddr>>;

    /// Forgets what was filed for `bound`; forgetting twice is not an error.
    fn forget_true_peer(&self, netns: NetnsCookie, bound: SocketAddr) -> io::Result<()>;

    /// The agent relays the bytes of `leg`, a connection with an application of `netns`, unread: later ones like it may be
    /// joined, and this one is spliced from now on if it was. Then the caller must read until nothing is left, must not write
    /// more than the splice takes, and is given what tells how much that is. A table that cannot splice does nothing.
    fn splice(&self, netns: NetnsCookie, leg: LegEnds) -> io::Result<Option<Box<dyn Backlog>>> {
        let _ = (netns, leg);
        Ok(None)
    }
}
