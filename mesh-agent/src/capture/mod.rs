//! IN: the listeners inside a pod, and the connections that the kernel programs send to them.
//!
//! Place in the walk: the first room of every connection. Must not know: maps and programs, protocols, policies.

pub mod dns;
pub mod door;
pub mod listeners;

use std::io;

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

/// Why a pod is not served any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It should not be enrolled, or the agent stops: connections that were accepted go on.
    Unwanted,
    /// Nobody is there any more to end them: its connections are cut.
    Gone,
}

/// Who serves the pods that are enrolled: the proxy.
///
/// Called from the enrolment loop, one call at a time; no call may block.
pub trait PodHost: Send + Sync {
    /// `pod` is about to be hooked: its connections will arrive at `listeners`. A pod joins once until it has left.
    /// Errors: they cannot be accepted from, so the pod must not be hooked; nothing of it is kept.
    fn joined(&self, pod: LocalPod, listeners: PodListeners) -> io::Result<()>;

    /// `Some`: DNS of the pod, which joined, arrives at these listeners from now on. `None`: none of it is captured any
    /// more, and the listeners may close.
    fn resolve(&self, uid: &WorkloadUid, listeners: Option<DnsListeners>);

    /// The pod's hooks are gone, or refuse: its listeners may close. A pod that is not served is no error.
    fn left(&self, uid: &WorkloadUid, why: Leaving);
}
