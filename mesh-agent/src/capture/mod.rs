//! In: the listening sockets inside a pod, what they accept, and where it wanted to go.
//!
//! Place in the walk: first. Must not know: eBPF (the flow table is a seam), protocols, policies.

mod accept;
mod listeners;

pub use accept::{Acceptor, Captured, Direction};
pub use listeners::{PodListener, PodListeners, Ports};

use crate::mesh::workload::WorkloadUid;
use crate::pod::LocalPod;

/// Serves the pods that enrolment hands over.
///
/// Both calls return at once; they are made from the control runtime, in order, never at the same time.
pub trait PodHost: Send + Sync {
    /// A pod joined: its listeners are open, and its traffic begins to arrive there.
    fn joined(&self, pod: LocalPod, listeners: PodListeners);

    /// A pod left: nothing new arrives; connections under way may end by themselves.
    fn left(&self, uid: &WorkloadUid);
}
