//! A leg: the connection between an application and its agent; its two sockets may hand each other bytes past TCP.
//!
//! Must not know: maps and programs, who else the bytes are for.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Which connection it is, in the namespace of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegEnds {
    /// The agent's own end.
    pub agent: SocketAddr,
    /// The application's.
    pub application: SocketAddr,
    /// What was dialled: what the application wanted to reach, or where it listens.
    pub dialled: SocketAddr,
}

/// The spliced bytes of one leg, seen from the agent. Dropped before the agent's socket is.
///
/// Every call is a few map operations: it does not block, and may be made on the data path, though not for every message.
pub trait Backlog: Send + Sync + fmt::Debug {
    /// How many bytes that the agent spliced the application has not read. `None` when nothing more can be spliced: the
    /// application closed its socket, or it is not known any more.
    fn unread(&self) -> io::Result<Option<u64>>;

    /// Counts what was spliced until now. The kernel forgets it when the agent's socket has sent and received its
    /// end, or was reset.
    fn tally(&self) -> io::Result<()>;
}
