//! Keeps what may go past the agent equal to what the snapshot allows, and ends what it forbids.
//!
//! Place in the walk: none; flows that go direct have no walk. Must not know: how verdicts are found, how hooks keep them.

mod ledger;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::direct::{DirectKey, Ends, Flow};
use mesh_common::layout::Endpoint;

use self::ledger::{Ledger, Seen};
use crate::kernel::direct::sock_diag::Victim;
use crate::kernel::direct::{DirectTable, limits, verdict};
use crate::kernel::error::KernelError;
use crate::kernel::pulse::monotonic_ns;
use crate::mesh::policy::MtlsMode;
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::pod::LocalPod;
use crate::pod::netns::Netns;
use crate::snapshot::{DirectVerdicts, Passage, Snapshot};
use crate::status::{DirectPod, DirectStatus};
use crate::telemetry::Telemetry;

/// Ends a socket of a pod; `kernel::direct::sock_diag::destroy` but in tests.
pub(super) type Executioner = Box<dyn Fn(&Netns, Victim) -> io::Result<bool> + Send>;

/// The flows of this node that go past the agent.
pub(super) struct DirectFlows {
    /// Why nothing goes direct; `None` where it does.
    off: Option<String>,
    table: Arc<dyn DirectTable>,
    destroy: Executioner,
    telemetry: Telemetry,
    ledger: Ledger,
    present: HashMap<u64, LocalPod>,
    /// What is in force: the snapshot's version, and the pods that were present.
    applied: Option<(u64, Vec<WorkloadUid>)>,
    found: DirectVerdicts,
    /// So many flows live that there is hardly room to register more: new ones go to the agent.
    is_crowded: bool,
    /// Live flows of each dialling pod, when they were last looked at.
    live: BTreeMap<WorkloadUid, usize>,
}

impl DirectFlows {
    /// With `off`, nothing new goes direct; flows that do go on, and are counted.
    pub(super) fn new(
        table: Arc<dyn DirectTable>,
        telemetry: Telemetry,
        destroy: Executioner,
        off: Option<String>,
    ) -> Self {
        Self {
            off,
            ledger: Ledger::new(Arc::clone(&table), telemetry.clone()),
            table,
            destroy,
            telemetry,
            present: HashMap::new(),
            applied: None,
            found: DirectVerdicts::default(),
            is_crowded: false,
            live: BTreeMap::new(),
        }
    }

    /// Puts the verdicts of a snapshot in force for the pods whose hooks are in place, then ends the flows that it
    /// forbids. Nothing is done where neither changed.
    pub(super) fn apply(&mut self, snapshot: &Snapshot, present: Vec<LocalPod>) {
        let uids: Vec<_> = present.iter().map(|pod| pod.workload.uid.clone()).collect();
        self.present = present
            .into_iter()
            .map(|pod| (pod.netns.cookie().0, pod))
            .collect();
        let now = (snapshot.version(), uids);
        if self.applied.as_ref() == Some(&now) {
            return;
        }
        let applied = self.allow(snapshot).and_then(|()| self.table.flows());
        match applied {
            Ok(flows) => {
                self.revoke(snapshot, &flows);
                self.applied = Some(now);
            }
            Err(error) => {
                tracing::error!(%error, "what may go direct cannot be put in force; tried again");
                self.applied = None;
            }
        }
    }

    /// Takes in what the hooks counted, and ends what is forbidden and still lives.
    pub(super) fn look(&mut self, snapshot: &Snapshot) -> Result<(), KernelError> {
        self.look_at(snapshot, monotonic_ns()?)
    }

    fn look_at(&mut self, snapshot: &Snapshot, now_ns: u64) -> Result<(), KernelError> {
        // Before that nobody knows whose flows an earlier agent left.
        if self.applied.is_none() {
            return Ok(());
        }
        self.ledger.meet(self.present.values());
        for closed in self.table.closed()? {
            if let Some(seen) = Seen::new(closed.ends, closed.flow, now_ns) {
                self.ledger.settle(&seen, snapshot)?;
            }
        }
        let flows = self.table.flows()?;
        self.revoke(snapshot, &flows);
        self.live.clear();
        for (ends, flow) in &flows {
            let Some(seen) = Seen::new(*ends, *flow, now_ns) else {
                continue;
            };
            if self.is_unwatched(snapshot, &seen) {
                self.release(snapshot, &seen);
                if self.table.forget(ends)? {
                    self.ledger.settle(&seen, snapshot)?;
                }
                continue;
            }
            if let Some(pod) = self.present.get(&flow.client_netns) {
                *self.live.entry(pod.workload.uid.clone()).or_default() += 1;
            }
            self.ledger.advance(&seen, snapshot)?;
        }
        self.ledger.sweep(&flows)?;
        self.telemetry.direct().flows(flows.len());
        self.make_room(snapshot, flows.len())
    }

    /// What the operator is shown.
    pub(super) fn status(&self) -> DirectStatus {
        let mut verdicts: BTreeMap<&WorkloadUid, usize> = BTreeMap::new();
        for verdict in &self.found.verdicts {
            *verdicts.entry(&verdict.source).or_default() += 1;
        }
        let mut pods: Vec<_> = self
            .present
            .values()
            .map(|pod| DirectPod {
                namespace: pod.workload.namespace.to_string(),
                pod: pod.workload.pod_name.to_string(),
                verdicts: verdicts.get(&pod.workload.uid).copied().unwrap_or_default(),
                flows: self.live.get(&pod.workload.uid).copied().unwrap_or_default(),
            })
            .collect();
        pods.sort_by(|one, other| (&one.namespace, &one.pod).cmp(&(&other.namespace, &other.pod)));
        DirectStatus {
            off: self.off.clone(),
            left_out: self.found.left_out,
            pods,
        }
    }

    /// Allows nothing new while the flows nearly fill their map: a flow that cannot be registered would be refused.
    fn make_room(&mut self, snapshot: &Snapshot, flows: usize) -> Result<(), KernelError> {
        let most = self.table.most_flows();
        let limit = if self.is_crowded { most / 2 } else { most / 8 * 7 };
        let is_crowded = flows > limit;
        if is_crowded == self.is_crowded {
            return Ok(());
        }
        tracing::warn!(
            flows,
            is_crowded,
            "direct connections nearly fill their map, or do not any more"
        );
        self.is_crowded = is_crowded;
        self.allow(snapshot)
    }

    fn allow(&mut self, snapshot: &Snapshot) -> Result<(), KernelError> {
        let by_uid: HashMap<_, _> = self
            .present
            .iter()
            .map(|(cookie, pod)| (pod.workload.uid.clone(), *cookie))
            .collect();
        let found = if self.off.is_some() || self.is_crowded {
            DirectVerdicts::default()
        } else {
            snapshot.direct_verdicts(|uid| by_uid.contains_key(uid), limits())
        };
        let wanted: HashMap<_, _> = found
            .verdicts
            .iter()
            .filter_map(|one| {
                let key = DirectKey {
                    netns: *by_uid.get(&one.source)?,
                    dialled: one.dialled.into(),
                    reserved: 0,
                };
                Some((key, verdict(&one.endpoints)?))
            })
            .collect();
        if found.left_out > 0 && self.found.left_out == 0 {
            tracing::warn!(
                left_out = found.left_out,
                "too many destinations may go direct; the rest goes through the agent"
            );
        }
        self.telemetry.direct().verdicts(wanted.len(), found.left_out);
        self.found = found;
        self.table.allow(&wanted)
    }

    /// Ends the flows that may not go past the agent any more. What would only need the agent if it were new goes on.
    fn revoke(&mut self, snapshot: &Snapshot, flows: &[(Ends, Flow)]) {
        for (ends, flow) in flows {
            if flow.client.closed != 0 {
                continue;
            }
            let Some(Passage::Forbidden(why)) = self.passage(snapshot, ends, flow) else {
                continue;
            };
            tracing::info!(
                ?ends,
                why,
                "a direct connection is not allowed any more and is ended"
            );
            if self.end_both(ends, flow) {
                self.ledger.revoked(*ends, flow.started_ns);
                self.telemetry.direct().revoked();
            }
        }
    }

    /// `None` where one of the pods is not known any more.
    fn passage(&self, snapshot: &Snapshot, ends: &Ends, flow: &Flow) -> Option<Passage> {
        let source = self.source(snapshot, flow)?;
        let server = SocketAddr::try_from(ends.server).ok()?;
        let destination = snapshot.workload_at(server.ip())?;
        let passages = [
            snapshot.may_go_direct(source, destination, server.port()),
            snapshot.is_opaque_to(source, SocketAddr::try_from(flow.dialled).ok()?),
        ];
        let forbidden = passages
            .into_iter()
            .find(|passage| matches!(passage, Passage::Forbidden(_)));
        Some(forbidden.unwrap_or(Passage::Direct))
    }

    fn source<'s>(&self, snapshot: &'s Snapshot, flow: &Flow) -> Option<&'s Arc<Workload>> {
        let pod = self.present.get(&flow.client_netns)?;
        snapshot.workload(&pod.workload.uid)
    }

    /// Whether one of the ends was there to be ended.
    fn end_both(&self, ends: &Ends, flow: &Flow) -> bool {
        let client = self.end_one(flow.client_netns, ends.client, ends.server, flow.client.cookie);
        let server = self.end_one(flow.server_netns, ends.server, ends.client, flow.server.cookie);
        client || server
    }

    fn end_one(&self, netns: u64, local: Endpoint, remote: Endpoint, cookie: u64) -> bool {
        let (Some(pod), Ok(local), Ok(remote)) = (
            self.present.get(&netns),
            SocketAddr::try_from(local),
            SocketAddr::try_from(remote),
        ) else {
            return false;
        };
        let victim = Victim {
            local,
            remote,
            cookie,
        };
        (self.destroy)(&pod.netns, victim).unwrap_or_else(|error| {
            tracing::error!(%error, %local, %remote, "a direct connection cannot be ended; tried again");
            false
        })
    }

    /// Whether no hook will tell the flow's end: its dialling pod is not hooked any more, or the other end's close was
    /// not seen. A pod that is wanted and not adopted yet is hooked.
    fn is_unwatched(&self, snapshot: &Snapshot, seen: &Seen) -> bool {
        let flow = &seen.flow;
        if flow.client.closed != 0 {
            let is_over = flow.server.cookie == 0 || flow.server.closed != 0;
            let patience = if is_over { MISSED_NS } else { LONE_END_NS };
            return seen.now_ns.saturating_sub(flow.ended_ns) > patience;
        }
        if self.present.contains_key(&flow.client_netns) {
            return false;
        }
        let wanted = snapshot.workload_at(seen.client.ip());
        wanted.is_none_or(|pod| snapshot.local().iter().all(|local| local.uid != pod.uid))
    }

    /// A flow of a pod that left the mesh while it lives is left alone, but where its server takes no plaintext.
    fn release(&self, snapshot: &Snapshot, seen: &Seen) {
        let Some(server) = self.present.get(&seen.flow.server_netns) else {
            return;
        };
        let mode = snapshot.mtls_mode(&server.workload, seen.server.port());
        if seen.flow.client.closed == 0 && mode == MtlsMode::Strict {
            let ends = &seen.ends;
            self.end_one(
                server.netns.cookie().0,
                ends.server,
                ends.client,
                seen.flow.server.cookie,
            );
        }
    }
}

impl fmt::Debug for DirectFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectFlows")
            .field("off", &self.off)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

/// How long both ends may be closed before the flow is taken for one that each left to the other to report.
const MISSED_NS: u64 = 2_000_000_000;
/// How long one end may outlive the other in the books.
const LONE_END_NS: u64 = 10_000_000_000;
