//! One pod that is hooked, and one that should be and is not.
//!
//! Must not know: other pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::kernel::enrolment::dns::Dns;
use crate::kernel::enrolment::exceptions::Excepted;
use crate::kernel::error::KernelError;
use crate::kernel::placement::{Learned, Whereabouts};
use crate::kernel::site::Site;
use crate::kernel::status::{Change, PodStatus, epoch_seconds};
use crate::kernel::{Entry, Kernel, Part};
use crate::mesh::workload::{FailMode, Workload, WorkloadUid};

/// A pod that is hooked.
pub(super) struct Present {
    pub(super) workload: Arc<Workload>,
    pub(super) whereabouts: Whereabouts,
    /// Connections that it had open when it was enrolled.
    pub(super) open_before: u64,
    pub(super) site: Site,
    pub(super) fail_mode: FailMode,
    pub(super) excepted: Excepted,
    pub(super) dns: Dns,
    pub(super) since: SystemTime,
    pub(super) standing: Standing,
    /// Why hooks or entries that somebody took away cannot be put back.
    pub(super) unrepaired: Option<String>,
}

/// What becomes of the connections of a pod that is hooked.
pub(super) enum Standing {
    /// They come to its listeners, which are held here too: the audit puts one back that somebody took out of its map.
    Served(Inbound),
    /// They are refused: its address means another pod.
    Superseded {
        /// The pod that has the address now.
        by: WorkloadUid,
        /// The reason, for people.
        why: String,
    },
    /// They are refused: it is in the facts no more, and is there still.
    Forgotten,
}

/// The inbound listeners of a pod.
pub(super) struct Inbound(Vec<(IpAddr, OwnedFd)>);

/// A pod that should be hooked and is not.
pub(super) struct Absent {
    pub(super) workload: Arc<Workload>,
    why: String,
    /// Whether all that is wrong is that it is not there.
    is_awaited: bool,
    since: Instant,
    /// The reason that was reported last.
    told: Option<String>,
}

impl Inbound {
    pub(super) fn holding<'a>(
        listeners: impl Iterator<Item = (IpAddr, BorrowedFd<'a>)>,
    ) -> Result<Self, KernelError> {
        let held = listeners.map(|(addr, listener)| Ok((addr, listener.try_clone_to_owned()?)));
        held.collect::<Result<_, _>>()
            .map(Self)
            .map_err(KernelError::Listen)
    }

    pub(super) fn sockets(&self) -> Vec<(IpAddr, BorrowedFd<'_>)> {
        let sockets = self.0.iter();
        sockets
            .map(|(addr, listener)| (*addr, listener.as_fd()))
            .collect()
    }
}

impl Present {
    /// Makes the hooks, the map entries and the fail mode what they should be, and says which parts were missing.
    pub(super) fn mend(
        &mut self,
        fail_mode: FailMode,
        kernel: &mut dyn Kernel,
    ) -> Result<Vec<Part>, KernelError> {
        if fail_mode != self.fail_mode {
            kernel.set_fail_mode(self.site.netns.cookie(), fail_mode)?;
            self.fail_mode = fail_mode;
        }
        match &self.standing {
            Standing::Served(inbound) => kernel.repair(&self.site, &inbound.sockets()),
            Standing::Superseded { .. } | Standing::Forgotten => {
                // It may have failed before.
                kernel.refuse(self.site.netns.cookie())?;
                kernel.repair(&self.site, &[])
            }
        }
    }

    /// Whether what `workload` says now is what the pod was enrolled with; other facts may change freely. Which address is
    /// the primary one may: a CNI plugin and the runtime need not agree on it.
    pub(super) fn is_enrolled_as(&self, workload: &Workload) -> bool {
        let addrs = |workload: &Workload| workload.addrs.iter().copied().collect::<BTreeSet<_>>();
        addrs(&self.workload) == addrs(workload) && self.workload.identity == workload.identity
    }

    /// What is said of it when it joins.
    pub(super) fn joined(&self) -> Change {
        match self.whereabouts.learned() {
            Learned::Found => Change::JoinedLate {
                open: self.open_before,
            },
            Learned::Declared | Learned::Announced => Change::Joined,
        }
    }

    /// The pod that has its address now.
    pub(super) fn superseded_by(&self) -> Option<&WorkloadUid> {
        match &self.standing {
            Standing::Served(_) | Standing::Forgotten => None,
            Standing::Superseded { by, .. } => Some(by),
        }
    }

    pub(super) fn status(&self, entries: &[Entry]) -> PodStatus {
        let cookie = self.site.netns.cookie();
        let entry = entries.iter().find(|entry| entry.netns == cookie);
        let refused = match &self.standing {
            Standing::Served(_) => None,
            Standing::Superseded { why, .. } => Some(why.as_str()),
            Standing::Forgotten => Some(FORGOTTEN),
        };
        PodStatus {
            present: entry.is_some(),
            hooks: entry.map(|entry| entry.hooks.clone()).unwrap_or_default(),
            since_s: Some(epoch_seconds(self.since)),
            bypassed: entry.map_or(0, |entry| entry.bypassed),
            learned: Some(self.whereabouts.learned()),
            open_before: self.open_before,
            why_not: self.unrepaired.as_deref().or(refused).map(str::to_owned),
            wanted: !self.is_forgotten(),
            ..status_of(&self.workload)
        }
    }
}

impl Absent {
    pub(super) fn new(workload: &Arc<Workload>, why: &KernelError, now: Instant) -> Self {
        Self {
            workload: Arc::clone(workload),
            why: why.to_string(),
            is_awaited: why.is_absence(),
            since: now,
            told: None,
        }
    }

    /// The same pod, which was absent `before` already.
    pub(super) fn following(self, before: Self) -> Self {
        Self {
            since: before.since,
            told: before.told,
            ..self
        }
    }

    /// What is to be reported of it, once for each reason: at once what is wrong; that it is not there, which is how
    /// every pod begins and ends, only when it lasts.
    pub(super) fn news(&mut self, now: Instant) -> Option<Change> {
        let waited = now.saturating_duration_since(self.since);
        let is_early = self.is_awaited && waited < PATIENCE;
        if is_early || self.told.as_ref() == Some(&self.why) {
            return None;
        }
        self.told = Some(self.why.clone());
        let why = self.why.clone();
        Some(if self.is_awaited {
            Change::Missed { why, waited }
        } else {
            Change::Failed { why }
        })
    }

    pub(super) fn status(&self) -> PodStatus {
        PodStatus {
            why_not: Some(self.why.clone()),
            ..status_of(&self.workload)
        }
    }
}

/// `namespace/name`, as people know a pod.
pub(super) fn name_of(workload: &Workload) -> String {
    format!("{}/{}", workload.namespace, workload.pod_name)
}

fn status_of(workload: &Workload) -> PodStatus {
    PodStatus {
        uid: workload.uid.to_string(),
        namespace: workload.namespace.to_string(),
        pod: workload.pod_name.to_string(),
        addrs: workload.addrs.clone(),
        wanted: true,
        present: false,
        hooks: Vec::new(),
        since_s: None,
        bypassed: 0,
        learned: None,
        open_before: 0,
        why_not: None,
    }
}

const FORGOTTEN: &str =
    "its object is gone and it runs still: all its connections are refused until it has ended";
/// How long a pod may be in the facts without being on the machine before that is worth a warning: an image that is
/// pulled, or a busy kubelet, takes some seconds.
const PATIENCE: Duration = Duration::from_secs(10);
