//! Keeps the pods that are hooked equal to the pods that should be.
//!
//! Must not know: where the wish comes from, what the proxy does with a pod.

mod audit;
mod direct;
mod dns;
mod exceptions;
mod forgotten;
mod places;
mod present;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

pub use self::forgotten::IsKnown;
use crate::capture::listeners::{PodListeners, PodPorts};
use crate::capture::{Leaving, PodHost};
use crate::kernel::enrolment::dns::Dns;
use crate::kernel::enrolment::exceptions::Excepted;
use crate::kernel::enrolment::present::{Absent, Inbound, Present, Standing, name_of};
use crate::kernel::error::KernelError;
use crate::kernel::placement::Locator;
use crate::kernel::site::Site;
use crate::kernel::splice::legs::Legs;
use crate::kernel::status::{Change, EnrolmentStatus, PodStatus, Report};
use crate::kernel::{Kernel, Pulse};
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::pod::LocalPod;

/// The pods of this node, hooked and not.
///
/// Owned by one task, which calls [`Enrolment::reconcile`] after every change of facts and every few seconds:
/// failures are tried again there, and [`Enrolment::sweep`] more often, so that pods that vanished are noticed soon.
/// Dropped, it stops to serve every pod and leaves it hooked: until the next agent adopts it, its new connections are
/// refused.
pub struct Enrolment {
    kernel: Box<dyn Kernel>,
    host: Arc<dyn PodHost>,
    ports: PodPorts,
    captures_dns: bool,
    locator: Locator,
    present: BTreeMap<WorkloadUid, Present>,
    absent: BTreeMap<WorkloadUid, Absent>,
}

impl Enrolment {
    /// Starts with no pod. `ports` are [`PodPorts::default`] wherever kernel programs run.
    pub fn new(kernel: Box<dyn Kernel>, host: Arc<dyn PodHost>, ports: PodPorts) -> Self {
        Self {
            kernel,
            host,
            ports,
            captures_dns: false,
            locator: Locator::default(),
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

    /// As [`Kernel::alone`].
    pub fn alone(&mut self) {
        self.kernel.alone();
    }

    /// As [`Kernel::splice`].
    pub fn splice(&mut self) -> Result<Result<Arc<Legs>, KernelError>, KernelError> {
        self.kernel.splice()
    }

    /// Makes the enrolled pods equal to `wanted`, the enrolled workloads of this node, and reports what changed.
    ///
    /// Synchronous: some dozens of system calls for each pod, whether it changes or only its hooks are looked at. One pod's
    /// failure does not touch another.
    pub fn reconcile(&mut self, wanted: &[Arc<Workload>]) -> Vec<Report> {
        self.reconcile_at(wanted, Instant::now())
    }

    /// As [`Enrolment::reconcile`], and pods that are not even known, and are there still, are refused until they are gone.
    pub fn reconcile_among(&mut self, wanted: &[Arc<Workload>], is_known: IsKnown<'_>) -> Vec<Report> {
        self.reconcile_all(wanted, is_known, Instant::now())
    }

    fn reconcile_at(&mut self, wanted: &[Arc<Workload>], now: Instant) -> Vec<Report> {
        self.reconcile_all(wanted, &|_| true, now)
    }

    fn reconcile_all(
        &mut self,
        wanted: &[Arc<Workload>],
        is_known: IsKnown<'_>,
        now: Instant,
    ) -> Vec<Report> {
        let wanted = &self.with_announced(wanted);
        let mut reports = Vec::new();
        self.forget(is_known, &mut reports);
        reports.extend(self.leave_unwanted(wanted, is_known));
        reports.extend(self.sweep());
        self.serve_again(is_known, &mut reports);
        self.audit(wanted, &mut reports);
        self.absent
            .retain(|uid, _| wanted.iter().any(|workload| workload.uid == *uid));
        // Whoever comes last has a contested address: after a restart, too, that is the youngest.
        let mut eldest_first: Vec<_> = wanted.iter().collect();
        eldest_first.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
        for workload in eldest_first {
            if !self.present.contains_key(&workload.uid) {
                self.join(workload, now, &mut reports);
            }
        }
        self.release_orphans(is_known);
        self.keep_exceptions(wanted, &mut reports);
        self.keep_dns(wanted, &mut reports);
        reports
    }

    /// Un-enrols pods whose namespace or cgroup is gone, and ends their connections: nobody is there any more to end
    /// them. Two system calls for each pod.
    pub fn sweep(&mut self) -> Vec<Report> {
        let gone = self
            .present
            .extract_if(.., |_, pod| !pod.whereabouts.is_still(&pod.site));
        let gone: Vec<_> = gone.collect();
        let mut reports = Vec::new();
        for (uid, pod) in gone {
            let why = Absent::new(&pod.workload, &KernelError::Vanished, Instant::now());
            reports.push(self.leave(&pod, Leaving::Gone));
            self.absent.insert(uid, why);
        }
        reports
    }

    /// From which addresses the node's own kubelet probes; never a pod's.
    pub fn know_node(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
        self.kernel.know_node(addrs)
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
        let overflows = self.kernel.overflows().unwrap_or_else(|error| {
            tracing::warn!(%error, "what the maps had no room for cannot be read");
            Vec::new()
        });
        EnrolmentStatus {
            pods,
            counters,
            overflows,
        }
    }

    /// Serves no pod any more, as before an orderly stop; all stay hooked for the next agent.
    pub fn stop(&mut self) {
        for uid in std::mem::take(&mut self.present).into_keys() {
            self.host.left(&uid, Leaving::Unwanted);
        }
    }

    /// Unhooks what an earlier agent left and nobody wants. A pod that is wanted and cannot be enrolled just now keeps
    /// its hooks, which refuse.
    fn release_orphans(&mut self, is_known: IsKnown<'_>) {
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
            if is_wanted || self.is_forgotten(&orphan, is_known) {
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

    fn leave_unwanted(&mut self, wanted: &[Arc<Workload>], is_known: IsKnown<'_>) -> Vec<Report> {
        let is_wanted = |pod: &Present| {
            let mut same = wanted.iter().filter(|workload| workload.uid == pod.workload.uid);
            same.any(|workload| pod.is_enrolled_as(workload) && self.is_where_it_should_be(pod, workload))
        };
        let unwanted = self.present.iter();
        let unwanted = unwanted.filter(|(_, pod)| !is_wanted(pod) && !pod.is_held(is_known));
        let unwanted: Vec<_> = unwanted.map(|(uid, _)| uid.clone()).collect();
        let unwanted = unwanted.iter().filter_map(|uid| self.present.remove(uid));
        let unwanted: Vec<_> = unwanted.collect();
        unwanted
            .iter()
            .map(|pod| self.leave(pod, Leaving::Unwanted))
            .collect()
    }

    fn leave(&mut self, pod: &Present, why: Leaving) -> Report {
        let removed = self.kernel.remove(pod.site.netns.cookie());
        self.host.left(&pod.workload.uid, why);
        let change = match removed {
            Ok(()) => Change::Left,
            Err(error) => Change::LeftUncleanly {
                why: error.to_string(),
            },
        };
        Report::new(&pod.workload, change)
    }

    fn join(&mut self, workload: &Arc<Workload>, now: Instant, reports: &mut Vec<Report>) {
        match self.hook_up(workload) {
            Ok(()) => {
                self.absent.remove(&workload.uid);
                let joined = self
                    .present
                    .get(&workload.uid)
                    .map_or(Change::Joined, Present::joined);
                reports.push(Report::new(workload, joined));
                self.supersede_by(workload, reports);
            }
            Err(error) => {
                let mut absent = Absent::new(workload, &error, now);
                if let Some(before) = self.absent.remove(&workload.uid) {
                    absent = absent.following(before);
                }
                reports.extend(absent.news(now).map(|news| Report::new(workload, news)));
                self.absent.insert(workload.uid.clone(), absent);
            }
        }
    }

    fn hook_up(&mut self, workload: &Arc<Workload>) -> Result<(), KernelError> {
        let (whereabouts, site) = self.find(workload)?;
        self.is_alone_at(&site)?;
        // Before anything is hooked: afterwards the agent's own would count.
        let open_before = self.open_before(&whereabouts, &site)?;
        let inbound = self.serve(workload, &site)?;
        let present = Present {
            workload: Arc::clone(workload),
            whereabouts,
            open_before,
            site,
            fail_mode: workload.fail_mode,
            excepted: Excepted::default(),
            dns: Dns::default(),
            since: SystemTime::now(),
            standing: Standing::Served(inbound),
            unrepaired: None,
        };
        self.present.insert(workload.uid.clone(), present);
        Ok(())
    }

    /// Opens the pod's doors, then hooks it up: who cannot be served is not hooked.
    fn serve(&mut self, workload: &Arc<Workload>, site: &Site) -> Result<Inbound, KernelError> {
        let pod = LocalPod {
            workload: Arc::clone(workload),
            netns: Arc::clone(&site.netns),
            flows: self.kernel.flows(),
        };
        let listeners = PodListeners::open(&pod, self.ports).map_err(KernelError::Listen)?;
        // Who has no address was refused before; 0 would mean the port of every agent but this.
        let outbound_port = listeners.outbound_port().ok_or(KernelError::NoAddress)?;
        let inbound = Inbound::holding(listeners.inbound_sockets())?;
        self.host.joined(pod, listeners).map_err(KernelError::Listen)?;
        let hooked = self
            .kernel
            .put(site, workload.fail_mode, outbound_port, &inbound.sockets());
        if let Err(error) = hooked {
            self.host.left(&workload.uid, Leaving::Unwanted);
            return Err(error);
        }
        Ok(inbound)
    }

    /// Whoever is hooked first stays: nobody is turned out for a pod that the hooks could not tell from it.
    fn is_alone_at(&self, site: &Site) -> Result<(), KernelError> {
        for pod in self.present.values() {
            if pod.site.shares_netns_with(site) {
                return Err(KernelError::SharedNetns(name_of(&pod.workload)));
            }
            if pod.site.shares_cgroup_with(site) {
                return Err(KernelError::SharedCgroup(name_of(&pod.workload)));
            }
        }
        Ok(())
    }

    /// A pod that joined has its addresses: whoever had them before and is still wanted stays hooked and is refused. To
    /// unhook it would let it speak plaintext; to serve it would show one pod's state to another.
    fn supersede_by(&mut self, winner: &Workload, reports: &mut Vec<Report>) {
        for (uid, pod) in &mut self.present {
            let mut addrs = winner.addrs.iter();
            let taken = addrs.find(|addr| pod.workload.addrs.contains(addr));
            let is_other = *uid != winner.uid && !pod.is_forgotten();
            let (true, Some(addr)) = (is_other, taken) else {
                continue;
            };
            let why = KernelError::Superseded {
                addr: *addr,
                by: name_of(winner),
            };
            let why = why.to_string();
            pod.standing = Standing::Superseded {
                by: winner.uid.clone(),
                why: why.clone(),
            };
            self.host.left(uid, Leaving::Gone);
            if let Err(error) = self.kernel.refuse(pod.site.netns.cookie()) {
                pod.unrepaired = Some(error.to_string());
            }
            reports.push(Report::new(&pod.workload, Change::Superseded { why }));
        }
    }

    /// Serves pods again whose address means nobody else any more, and those that the facts remember.
    fn serve_again(&mut self, is_known: IsKnown<'_>, reports: &mut Vec<Report>) {
        let refused = self.present.iter();
        let free: Vec<_> = refused
            .filter(|(uid, pod)| match &pod.standing {
                Standing::Served(_) => false,
                Standing::Superseded { by, .. } => !self.present.contains_key(by),
                Standing::Forgotten => is_known(uid),
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in free {
            let Some(mut pod) = self.present.remove(&uid) else {
                continue;
            };
            match self.serve(&pod.workload, &pod.site) {
                Ok(inbound) => {
                    pod.standing = Standing::Served(inbound);
                    pod.excepted = Excepted::default();
                    pod.dns = Dns::default();
                    pod.unrepaired = None;
                    reports.push(Report::new(&pod.workload, Change::Joined));
                }
                // Tried again at the next reconcile; until then it is refused as before.
                Err(error) => pod.unrepaired = Some(error.to_string()),
            }
            self.present.insert(uid, pod);
        }
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
