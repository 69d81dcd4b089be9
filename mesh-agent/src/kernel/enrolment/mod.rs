//! Keeps the pods that are hooked equal to the pods that should be.
//!
//! Must not know: where the wish comes from, what the proxy does with a pod.

mod dns;
mod exclusions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::capture::PodHost;
use crate::capture::listeners::{PodListeners, PodPorts};
use crate::kernel::enrolment::dns::Dns;
use crate::kernel::enrolment::exclusions::Excluded;
use crate::kernel::error::KernelError;
use crate::kernel::site::Site;
use crate::kernel::status::{Change, EnrolmentStatus, PodStatus, Report, epoch_seconds};
use crate::kernel::{Entry, Hook, Kernel, Pulse};
use crate::mesh::workload::{FailMode, Placement, Workload, WorkloadUid};
use crate::pod::LocalPod;

/// The pods of this node, hooked and not.
///
/// Owned by one task, which calls [`Enrolment::reconcile`] after every change of facts and every few seconds:
/// failures are tried again there, and pods that vanished are noticed there. Dropped, it stops to serve every pod and
/// leaves it hooked: until the next agent adopts it, its new connections are refused.
pub struct Enrolment {
    kernel: Box<dyn Kernel>,
    host: Arc<dyn PodHost>,
    ports: PodPorts,
    captures_dns: bool,
    present: BTreeMap<WorkloadUid, Present>,
    absent: BTreeMap<WorkloadUid, Absent>,
}

/// A pod that is hooked.
struct Present {
    workload: Arc<Workload>,
    placement: Placement,
    site: Site,
    fail_mode: FailMode,
    excluded: Excluded,
    dns: Dns,
    since: SystemTime,
    /// Why hooks that somebody took away cannot be linked again.
    unrepaired: Option<String>,
}

/// A pod that should be hooked and is not.
struct Absent {
    workload: Arc<Workload>,
    why: String,
    superseded_by: Option<WorkloadUid>,
}

impl Enrolment {
    /// Starts with no pod. `ports` are [`PodPorts::default`] wherever kernel programs run.
    pub fn new(kernel: Box<dyn Kernel>, host: Arc<dyn PodHost>, ports: PodPorts) -> Self {
        Self {
            kernel,
            host,
            ports,
            captures_dns: false,
            present: BTreeMap::new(),
            absent: BTreeMap::new(),
        }
    }

    /// Whether DNS of pods whose facts say nothing about it is captured; it is not unless said here.
    #[must_use]
    pub fn capturing_dns(mut self, captures_dns: bool) -> Self {
        self.captures_dns = captures_dns;
        self
    }

    /// How the hooks learn that the agent lives.
    pub fn pulse(&self) -> Arc<dyn Pulse> {
        self.kernel.pulse()
    }

    /// Makes the enrolled pods equal to `wanted`, the enrolled workloads of this node, and reports what changed.
    ///
    /// Synchronous: some dozens of system calls for each pod, whether it changes or only its hooks are looked at. One pod's
    /// failure does not touch another.
    pub fn reconcile(&mut self, wanted: &[Arc<Workload>]) -> Vec<Report> {
        let mut reports = self.leave_unwanted(wanted);
        self.audit(wanted, &mut reports);
        self.absent
            .retain(|uid, _| wanted.iter().any(|workload| workload.uid == *uid));
        for workload in wanted {
            if !self.present.contains_key(&workload.uid) {
                self.join(workload, wanted, &mut reports);
            }
        }
        self.release_orphans();
        self.keep_exclusions(wanted, &mut reports);
        self.keep_dns(wanted, &mut reports);
        reports
    }

    /// What is enrolled, what is not, and why.
    pub fn status(&self) -> EnrolmentStatus {
        let entries = self.kernel.entries();
        let present = self.present.values().map(|pod| pod.status(&entries));
        let absent = self.absent.values().map(Absent::status);
        let mut pods: Vec<PodStatus> = present.chain(absent).collect();
        pods.sort_by(|one, other| one.uid.cmp(&other.uid));
        let counters = self.kernel.counters().unwrap_or_else(|error| {
            tracing::warn!(%error, "the hooks' counters cannot be read");
            Vec::new()
        });
        EnrolmentStatus { pods, counters }
    }

    /// Serves no pod any more, as before an orderly stop; all stay hooked for the next agent.
    pub fn stop(&mut self) {
        for uid in std::mem::take(&mut self.present).into_keys() {
            self.host.left(&uid);
        }
    }

    /// Compares the links that should be with those that the kernel has, and mends the difference.
    fn audit(&mut self, wanted: &[Arc<Workload>], reports: &mut Vec<Report>) {
        for pod in self.present.values_mut() {
            let wish = wanted.iter().find(|workload| workload.uid == pod.workload.uid);
            let fail_mode = wish.map_or(pod.fail_mode, |workload| workload.fail_mode);
            let change = match pod.mend(fail_mode, self.kernel.as_mut()) {
                Ok(hooks) => {
                    pod.unrepaired = None;
                    (!hooks.is_empty()).then_some(Change::Repaired { hooks })
                }
                Err(error) => {
                    let why = error.to_string();
                    let before = pod.unrepaired.replace(why.clone());
                    (before.as_ref() != Some(&why)).then_some(Change::Unrepaired { why })
                }
            };
            reports.extend(change.map(|change| Report::new(&pod.workload, change)));
        }
    }

    /// Unhooks what an earlier agent left and nobody wants. A pod that is wanted and cannot be enrolled just now keeps
    /// its hooks, which refuse.
    fn release_orphans(&mut self) {
        let orphans = self.kernel.orphans().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot find out what an earlier agent left");
            Vec::new()
        });
        for orphan in orphans {
            let mut absent = self.absent.values();
            let is_wanted = absent.any(|pod| {
                let mut addrs = pod.workload.addrs.iter();
                orphan.addrs.is_empty() || addrs.any(|addr| orphan.addrs.contains(addr))
            });
            if is_wanted {
                continue;
            }
            let (netns, addrs) = (orphan.netns.0, &orphan.addrs);
            match self.kernel.remove(orphan.netns) {
                Ok(()) => tracing::info!(netns, ?addrs, "removed what was left of a pod that is gone"),
                Err(error) => {
                    tracing::warn!(%error, netns, ?addrs, "cannot remove all of a pod that is gone");
                }
            }
        }
    }

    fn leave_unwanted(&mut self, wanted: &[Arc<Workload>]) -> Vec<Report> {
        let leaving: Vec<(WorkloadUid, bool)> = self
            .present
            .iter()
            .filter_map(|(uid, pod)| {
                let still = wanted
                    .iter()
                    .find(|workload| workload.uid == *uid && pod.is_enrolled_as(workload));
                let vanished = !pod.site.is_at(&pod.placement);
                (still.is_none() || vanished).then(|| (uid.clone(), still.is_some()))
            })
            .collect();
        leaving
            .into_iter()
            .filter_map(|(uid, vanished)| self.leave(&uid, vanished.then_some(KernelError::Vanished)))
            .collect()
    }

    fn leave(&mut self, uid: &WorkloadUid, unwillingly: Option<KernelError>) -> Option<Report> {
        let pod = self.present.remove(uid)?;
        let removed = self.kernel.remove(pod.site.netns.cookie());
        self.host.left(uid);
        let change = match removed {
            Ok(()) => Change::Left,
            Err(error) => Change::LeftUncleanly {
                why: error.to_string(),
            },
        };
        let report = Report::new(&pod.workload, change);
        if let Some(why) = unwillingly {
            self.absent.insert(uid.clone(), Absent::new(&pod.workload, &why));
        }
        Some(report)
    }

    fn join(&mut self, workload: &Arc<Workload>, wanted: &[Arc<Workload>], reports: &mut Vec<Report>) {
        match self.hook_up(workload, wanted, reports) {
            Ok(()) => {
                self.absent.remove(&workload.uid);
                reports.push(Report::new(workload, Change::Joined));
            }
            Err(error) => {
                let failed = Absent::new(workload, &error);
                let why = failed.why.clone();
                let before = self.absent.insert(workload.uid.clone(), failed);
                if before.is_none_or(|before| before.why != why) {
                    reports.push(Report::new(workload, Change::Failed { why }));
                }
            }
        }
    }

    fn hook_up(
        &mut self,
        workload: &Arc<Workload>,
        wanted: &[Arc<Workload>],
        reports: &mut Vec<Report>,
    ) -> Result<(), KernelError> {
        let placement = workload.placement.clone().ok_or(KernelError::NoPlacement)?;
        if workload.addrs.is_empty() {
            return Err(KernelError::NoAddress);
        }
        self.may_claim(workload, wanted)?;
        let site = self.kernel.open(&placement)?;
        self.claim(workload, &site, reports)?;
        let pod = LocalPod {
            workload: Arc::clone(workload),
            netns: Arc::clone(&site.netns),
            flows: self.kernel.flows(),
        };
        let listeners = PodListeners::open(&pod, self.ports).map_err(KernelError::Listen)?;
        let inbound: Vec<_> = listeners.inbound_sockets().collect();
        self.kernel.put(&site, workload.fail_mode, &inbound)?;
        drop(inbound);
        let present = Present {
            workload: Arc::clone(workload),
            placement,
            site,
            fail_mode: workload.fail_mode,
            excluded: Excluded::default(),
            dns: Dns::default(),
            since: SystemTime::now(),
            unrepaired: None,
        };
        self.present.insert(workload.uid.clone(), present);
        self.host.joined(pod, listeners);
        Ok(())
    }

    /// A pod whose address was taken over stays away for as long as the winner is wanted.
    fn may_claim(&self, workload: &Workload, wanted: &[Arc<Workload>]) -> Result<(), KernelError> {
        let absent = self.absent.get(&workload.uid);
        let Some(winner) = absent.and_then(|absent| absent.superseded_by.as_ref()) else {
            return Ok(());
        };
        let Some(winner) = wanted.iter().find(|other| other.uid == *winner) else {
            return Ok(());
        };
        match workload.addrs.iter().find(|addr| winner.addrs.contains(addr)) {
            Some(addr) => Err(KernelError::Superseded {
                addr: *addr,
                by: winner.uid.clone(),
            }),
            None => Ok(()),
        }
    }

    /// A uid that is not present takes its addresses over from whoever has them: facts of a pod that is gone may
    /// linger. Nobody is turned out for a pod whose namespace cannot be opened or belongs to a third.
    fn claim(
        &mut self,
        workload: &Workload,
        site: &Site,
        reports: &mut Vec<Report>,
    ) -> Result<(), KernelError> {
        let mut losers = Vec::new();
        for (uid, pod) in &self.present {
            let taken = workload
                .addrs
                .iter()
                .find(|addr| pod.workload.addrs.contains(addr));
            match taken {
                Some(addr) => losers.push((uid.clone(), *addr)),
                None if pod.site.netns.cookie() == site.netns.cookie() => {
                    return Err(KernelError::SharedNetns(uid.clone()));
                }
                None => {}
            }
        }
        for (uid, addr) in losers {
            let why = KernelError::Superseded {
                addr,
                by: workload.uid.clone(),
            };
            reports.extend(self.leave(&uid, Some(why)));
        }
        Ok(())
    }
}

impl Drop for Enrolment {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (present, absent) = (self.present.keys(), self.absent.keys());
        f.debug_struct("Enrolment")
            .field("present", &present)
            .field("absent", &absent)
            .finish_non_exhaustive()
    }
}

impl Present {
    /// Makes the hooks and the fail mode what they should be, and says which hooks were missing.
    fn mend(&mut self, fail_mode: FailMode, kernel: &mut dyn Kernel) -> Result<Vec<Hook>, KernelError> {
        if fail_mode != self.fail_mode {
            kernel.set_fail_mode(self.site.netns.cookie(), fail_mode)?;
            self.fail_mode = fail_mode;
        }
        kernel.repair(&self.site)
    }

    /// Whether what `workload` says now is what the pod was enrolled with; other facts may change freely.
    fn is_enrolled_as(&self, workload: &Workload) -> bool {
        self.workload.addrs == workload.addrs
            && self.workload.identity == workload.identity
            && workload.placement.as_ref() == Some(&self.placement)
    }

    fn status(&self, entries: &[Entry]) -> PodStatus {
        let cookie = self.site.netns.cookie();
        let entry = entries.iter().find(|entry| entry.netns == cookie);
        PodStatus {
            present: entry.is_some(),
            hooks: entry.map(|entry| entry.hooks.clone()).unwrap_or_default(),
            since_s: Some(epoch_seconds(self.since)),
            bypassed: entry.map_or(0, |entry| entry.bypassed),
            why_not: self.unrepaired.clone(),
            ..status_of(&self.workload)
        }
    }
}

impl Absent {
    fn new(workload: &Arc<Workload>, why: &KernelError) -> Self {
        let superseded_by = if let KernelError::Superseded { by, .. } = why {
            Some(by.clone())
        } else {
            None
        };
        Self {
            workload: Arc::clone(workload),
            why: why.to_string(),
            superseded_by,
        }
    }

    fn status(&self) -> PodStatus {
        PodStatus {
            why_not: Some(self.why.clone()),
            ..status_of(&self.workload)
        }
    }
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
        why_not: None,
    }
}
