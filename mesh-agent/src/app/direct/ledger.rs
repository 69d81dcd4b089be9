//! Turns what the hooks count of direct flows into metrics and access-log lines, each byte once, across restarts.
//!
//! Before a byte goes into a metric, the map that outlives the agent says so: an agent that dies in between loses what
//! it was about to count, and none counts it again. Must not know: what is allowed.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_common::direct::{Counted, Ends, Flow};

use crate::kernel::direct::DirectTable;
use crate::kernel::error::KernelError;
use crate::mesh::workload::Workload;
use crate::pod::LocalPod;
use crate::snapshot::{Destination, Snapshot};
use crate::telemetry::{
    DirectEnd, DirectRecord, DirectStart, FlowLabels, PeerLabels, Reporter, ResponseFlag, Security, Telemetry,
};

/// A direct flow as it was found.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) ends: Ends,
    pub(super) flow: Flow,
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) dialled: SocketAddr,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) now_ns: u64,
}

impl Seen {
    /// `None` for what is no flow: a port is out of range, which is logged.
    pub(super) fn new(ends: Ends, flow: Flow, now_ns: u64) -> Option<Self> {
        let addrs = [ends.client, ends.server, flow.dialled].map(SocketAddr::try_from);
        let [Ok(client), Ok(server), Ok(dialled)] = addrs else {
            tracing::error!(?ends, "a direct flow has an end that is none");
            return None;
        };
        Some(Self {
            ends,
            flow,
            client,
            server,
            dialled,
            now_ns,
        })
    }

    fn to_server(&self) -> u64 {
        self.flow.client.sent.saturating_add(self.flow.client.spliced)
    }

    fn to_client(&self) -> u64 {
        self.flow.server.sent.saturating_add(self.flow.server.spliced)
    }

    fn duration(&self) -> Duration {
        let end_ns = if self.flow.ended_ns == 0 {
            self.now_ns
        } else {
            self.flow.ended_ns
        };
        Duration::from_nanos(end_ns.saturating_sub(self.flow.started_ns))
    }

    fn started(&self) -> SystemTime {
        let age = Duration::from_nanos(self.now_ns.saturating_sub(self.flow.started_ns));
        let now = SystemTime::now();
        now.checked_sub(age).unwrap_or(now)
    }
}

/// The books of all direct flows.
pub(super) struct Ledger {
    table: Arc<dyn DirectTable>,
    telemetry: Telemetry,
    open: HashMap<Ends, Account>,
    /// Who stands behind a netns cookie, for some time after it left; and how often it was missed since.
    people: HashMap<u64, (Arc<Workload>, u32)>,
    revoked: HashSet<(Ends, u64)>,
}

/// A flow that lives.
struct Account {
    counted: Counted,
    records: [DirectRecord; 2],
    /// Whether the map that outlives the agent does not know of it yet.
    is_new: bool,
    /// The flow, when it was last found.
    last: Seen,
    /// Looks since then.
    missed: u32,
}

impl Account {
    /// Takes the flow's counts over into the metrics.
    fn count(&mut self, to: Counted) {
        let (sent, received) = (
            to.to_client.saturating_sub(self.counted.to_client),
            to.to_server.saturating_sub(self.counted.to_server),
        );
        for record in &self.records {
            record.add(sent, received);
        }
        self.counted = to;
    }

    /// What is to be counted of the flow by now; never less than before.
    fn due(&self, seen: &Seen) -> Counted {
        Counted {
            to_server: self.counted.to_server.max(seen.to_server()),
            to_client: self.counted.to_client.max(seen.to_client()),
            ..self.counted
        }
    }
}

impl Ledger {
    pub(super) fn new(table: Arc<dyn DirectTable>, telemetry: Telemetry) -> Self {
        Self {
            table,
            telemetry,
            open: HashMap::new(),
            people: HashMap::new(),
            revoked: HashSet::new(),
        }
    }

    /// Notes who is present; called before each look at the flows.
    pub(super) fn meet<'p>(&mut self, present: impl Iterator<Item = &'p LocalPod>) {
        for (_, missed) in self.people.values_mut() {
            *missed += 1;
        }
        for pod in present {
            let known = (Arc::clone(&pod.workload), 0);
            self.people.insert(pod.netns.cookie().0, known);
        }
        self.people.retain(|_, (_, missed)| *missed < REMEMBERED_LOOKS);
    }

    /// A flow was ended because it is not allowed any more.
    pub(super) fn revoked(&mut self, ends: Ends, started_ns: u64) {
        self.revoked.insert((ends, started_ns));
    }

    /// Counts what a living flow moved since the last look.
    pub(super) fn advance(&mut self, seen: &Seen, snapshot: &Snapshot) -> Result<(), KernelError> {
        let mut account = self.account(seen, snapshot)?;
        let due = account.due(seen);
        if account.is_new || account.counted != due {
            self.table.count(&seen.ends, Some(due))?;
        }
        account.count(due);
        account.is_new = false;
        account.last = seen.clone();
        account.missed = 0;
        self.open.insert(seen.ends, account);
        Ok(())
    }

    /// Counts the rest of a flow that ended, and closes its books.
    pub(super) fn settle(&mut self, seen: &Seen, snapshot: &Snapshot) -> Result<(), KernelError> {
        let account = self.account(seen, snapshot)?;
        if !account.is_new {
            self.table.count(&seen.ends, None)?;
        }
        self.close(account, seen);
        Ok(())
    }

    /// Closes the books of flows that are gone from the map and whose reports were lost; `living` are those that are not.
    pub(super) fn sweep(&mut self, living: &[(Ends, Flow)]) -> Result<(), KernelError> {
        let living: HashSet<(Ends, u64)> = living
            .iter()
            .map(|(ends, flow)| (*ends, flow.started_ns))
            .collect();
        let mut lost = Vec::new();
        for (ends, account) in &mut self.open {
            if !living.contains(&(*ends, account.counted.started_ns)) {
                account.missed += 1;
                if account.missed >= LOST_AFTER_LOOKS {
                    lost.push(*ends);
                }
            }
        }
        for ends in lost {
            if let Some(account) = self.open.remove(&ends) {
                self.table.count(&ends, None)?;
                let last = account.last.clone();
                self.close(account, &last);
            }
        }
        // What was revoked and is not reported by now never will be.
        self.revoked
            .retain(|key| living.contains(key) || self.open.contains_key(&key.0));
        Ok(())
    }

    /// Takes the account of a flow out, or opens one.
    fn account(&mut self, seen: &Seen, snapshot: &Snapshot) -> Result<Account, KernelError> {
        match self.open.remove(&seen.ends) {
            Some(account) if account.counted.started_ns == seen.flow.started_ns => return Ok(account),
            Some(earlier) => {
                let last = earlier.last.clone();
                self.close(earlier, &last);
            }
            None => {}
        }
        let started_ns = seen.flow.started_ns;
        let counted = self.table.counted(&seen.ends)?;
        let counted = counted.filter(|counted| counted.started_ns == started_ns);
        let start = DirectStart {
            source: seen.client,
            destination: seen.dialled,
            upstream: seen.server,
            started: seen.started(),
        };
        let open = |flow| self.telemetry.direct_flow(flow, start.clone(), counted.is_none());
        Ok(Account {
            records: self.labels(seen, snapshot).map(open),
            counted: counted.unwrap_or(Counted {
                started_ns,
                to_server: 0,
                to_client: 0,
            }),
            is_new: counted.is_none(),
            last: seen.clone(),
            missed: 0,
        })
    }

    fn close(&mut self, mut account: Account, seen: &Seen) {
        account.count(account.due(seen));
        let was_revoked = self.revoked.remove(&(seen.ends, seen.flow.started_ns));
        let end = DirectEnd {
            duration: seen.duration(),
            sent: seen.to_client(),
            received: seen.to_server(),
            fault: match (was_revoked, seen.flow.established) {
                (true, _) => Some((ResponseFlag::Lr, "revoked")),
                (false, 0) => Some((ResponseFlag::Uf, "connect_failed")),
                (false, _) => None,
            },
        };
        let (client, server) = (&seen.flow.client, &seen.flow.server);
        let round_trip = (client.srtt_us > 0).then(|| Duration::from_micros(client.srtt_us.into()));
        let retransmits = u64::from(client.retransmits) + u64::from(server.retransmits);
        self.telemetry.direct().ended(retransmits, round_trip);
        for record in account.records {
            record.close(end);
        }
    }

    /// The labels of both reporters, the source's first.
    fn labels(&self, seen: &Seen, snapshot: &Snapshot) -> [FlowLabels; 2] {
        let peer = |netns: u64, addr: SocketAddr| {
            let known = self.people.get(&netns).map(|(workload, _)| workload);
            let known = known.or_else(|| snapshot.workload_at(addr.ip()));
            known.map_or_else(PeerLabels::unknown, |workload| snapshot.labels(workload))
        };
        let client = self.people.get(&seen.flow.client_netns).map(|(client, _)| client);
        let client = client.or_else(|| snapshot.workload_at(seen.client.ip()));
        let service = match client.map(|client| snapshot.destination(client, seen.dialled)) {
            Some(Destination::Service(upstream)) => Some(upstream.service.clone()),
            Some(Destination::Workload { service, .. }) => service,
            Some(Destination::NoSuchPort(service)) => Some(service),
            Some(Destination::Unknown) | None => None,
        };
        let from_source = FlowLabels {
            reporter: Reporter::Source,
            source: peer(seen.flow.client_netns, seen.client),
            destination: peer(seen.flow.server_netns, seen.server),
            service,
            security: Security::InProcess,
        };
        let to_destination = FlowLabels {
            reporter: Reporter::Destination,
            ..from_source.clone()
        };
        [from_source, to_destination]
    }
}

/// A pod that left is remembered for this many looks: its flows may be reported later.
const REMEMBERED_LOOKS: u32 = 60;
/// A flow that is gone from the map is reported by the next look; one that is not by then lost its report.
const LOST_AFTER_LOOKS: u32 = 3;
