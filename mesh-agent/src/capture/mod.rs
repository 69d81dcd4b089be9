//! IN: the listeners inside a pod, and the connections that the kernel programs send to them.
//!
//! Place in the walk: the first room of every connection. Must not know: maps and programs, protocols, policies.

pub mod dns;
pub mod door;
pub mod listeners;

use crate::capture::dns::DnsListeners;
use crate::capture::listeners::PodListeners;
use crate::mesh::workload::WorkloadUid;
use crate::pod::LocalPod;

/// Which way a captured connection goes, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The pod dialled.
    Outbound,
    /// Somebody dialled the pod.
    Inbound,
}

/// Who serves the pods that are enrolled: the proxy.
///
/// Called from the enrolment loop, one call at a time; no call may block.
pub trait PodHost: Send + Sync {
    /// `pod` is hooked: its connections arrive at `listeners` from now on. A pod joins once until it has left.
    fn joined(&self, pod: LocalPod, listeners: PodListeners);

    /// `Some`: DNS of the pod, which joined, arrives at these listeners from now on. `None`: none of it is captured any
    /// more, and the listeners may close.
    fn resolve(&self, uid: &WorkloadUid, listeners: Option<DnsListeners>);

    /// The pod's hooks are gone: its listeners may close. Connections that were accepted may go on.
    fn left(&self, uid: &WorkloadUid);
}
