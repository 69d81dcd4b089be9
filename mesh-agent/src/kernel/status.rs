//! What is enrolled, what is not, and why: as `status` and the reports show it.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::kernel::placement::Learned;
use crate::kernel::{Hook, Part};
use crate::mesh::workload::{Workload, WorkloadUid};

/// Everything that enrolment knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnrolmentStatus {
    /// Every pod that is wanted or still present, by uid.
    pub pods: Vec<PodStatus>,
    /// What the hooks counted since they were loaded.
    pub counters: Vec<(&'static str, u64)>,
    /// Entries for which each map had no room.
    pub overflows: Vec<(&'static str, u64)>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub pod: String,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
    /// Whether the facts ask for it to be enrolled.
    pub wanted: bool,
    /// Whether it is.
    pub present: bool,
    /// The hooks that are linked, as the kernel says.
    pub hooks: Vec<Hook>,
    /// Seconds since the epoch at which it became present.
    pub since_s: Option<u64>,
    /// Connections that went past a dead agent since the pod was first hooked.
    pub bypassed: u64,
    /// How the mesh learned where it lives; `None` for one that is not present.
    pub learned: Option<Learned>,
    /// Connections that it had open when it was enrolled, where it ran before: they stay past the mesh until they end.
    pub open_before: u64,
    /// Why wanted and present differ.
    pub why_not: Option<String>,
}

impl PodStatus {
    /// Whether its connections go through the agent as they should.
    pub fn is_served(&self) -> bool {
        self.present && self.why_not.is_none()
    }
}

/// Something that changed for a pod in one reconcile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which pod.
    pub uid: WorkloadUid,
    /// `namespace/name` of the pod.
    pub pod: String,
    /// What happened.
    pub change: Change,
}

/// What happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is enrolled: every hook is linked.
    Joined,
    /// It is enrolled, and ran before: it has connections that stay past the mesh until they end.
    JoinedLate {
        /// How many.
        open: u64,
    },
    /// Somebody else had taken hooks or map entries away or changed them; they are as they should be again.
    Repaired {
        /// Which.
        parts: Vec<Part>,
    },
    /// Somebody else took hooks or map entries away, and they cannot be put back; tried at every reconcile, reported
    /// when the reason changes.
    Unrepaired {
        /// The reason.
        why: String,
    },
    /// Another pod has its address: it stays hooked, and its connections are refused.
    Superseded {
        /// The reason.
        why: String,
    },
    /// Its facts are gone and it is there still: it stays hooked, and its connections are refused.
    Forgotten,
    /// It is not enrolled any more.
    Left,
    /// It is wanted and could not be enrolled; tried again at every reconcile, reported when the reason changes.
    Failed {
        /// The reason.
        why: String,
    },
    /// It is wanted and has not been on this machine for a while; tried again at every reconcile, reported when it has
    /// lasted and when the reason changes.
    Missed {
        /// What is not there.
        why: String,
        /// For how long it is wanted already.
        waited: Duration,
    },
    /// What its facts let past the mesh is in force now; it stayed enrolled.
    ExceptionsChanged,
    /// What its facts let past the mesh is not in force, or in part only; tried again at every reconcile, reported when
    /// the reason changes.
    ExceptionsFailed {
        /// The reason.
        why: String,
    },
    /// Its DNS goes to the agent from now on, or does not any more; it stayed enrolled.
    DnsChanged {
        /// Which of the two.
        is_captured: bool,
    },
    /// Its DNS is not what it should be: not captured, where that could be had; tried again at every reconcile, reported
    /// when the reason changes.
    DnsFailed {
        /// The reason.
        why: String,
    },
    /// It is unhooked, but something of it could not be removed.
    LeftUncleanly {
        /// The reason.
        why: String,
    },
}

impl Report {
    pub(in crate::kernel) fn new(workload: &Workload, change: Change) -> Self {
        let pod = format!("{}/{}", workload.namespace, workload.pod_name);
        Self {
            uid: workload.uid.clone(),
            pod,
            change,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Joined => write!(f, "{} enrolled", self.pod),
            Change::JoinedLate { open } => {
                write!(
                    f,
                    "{} enrolled by watching, {open} connections were open before",
                    self.pod
                )
            }
            Change::Repaired { parts } => {
                let parts: Vec<_> = parts.iter().map(|part| part.name()).collect();
                write!(f, "{} repaired: {}", self.pod, parts.join(" "))
            }
            Change::Unrepaired { why } => write!(f, "{} not repaired: {why}", self.pod),
            Change::Superseded { why } => write!(f, "{} refused: {why}", self.pod),
            Change::Forgotten => write!(f, "{} refused: its object is gone and it runs still", self.pod),
            Change::Left => write!(f, "{} un-enrolled", self.pod),
            Change::Failed { why } => write!(f, "{} not enrolled: {why}", self.pod),
            Change::Missed { why, waited } => {
                write!(f, "{} not there for {} s: {why}", self.pod, waited.as_secs())
            }
            Change::ExceptionsChanged => write!(f, "{} lets something else past", self.pod),
            Change::ExceptionsFailed { why } => write!(f, "{} lets not past what it should: {why}", self.pod),
            Change::DnsChanged { is_captured: true } => write!(f, "{} has its DNS captured", self.pod),
            Change::DnsChanged { is_captured: false } => write!(f, "{} has its DNS left alone", self.pod),
            Change::DnsFailed { why } => write!(f, "{} has no captured DNS: {why}", self.pod),
            Change::LeftUncleanly { why } => {
                write!(f, "{} un-enrolled, entries stay behind: {why}", self.pod)
            }
        }
    }
}

/// Whole seconds since the epoch; a clock before it counts as the epoch.
pub(in crate::kernel) fn epoch_seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
