//! The agent's own loops: configuration in, enrolment kept true, unused connections closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mesh_common::counter::Counter;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::probe;
use crate::app::cni::Announcements;
use crate::app::direct::DirectFlows;
use crate::app::knowledge::{Knowledge, Learned, are_there};
use crate::app::lock::Standby;
use crate::control::{Reading, SourceError};
use crate::kernel::Pulse;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::node_addrs;
use crate::kernel::status::{Change, Report};
use crate::lifecycle::{ReadyGuard, Stop, Tasks};
use crate::proxy::Mesh;
use crate::snapshot::SnapshotCell;
use crate::status::StatusBoard;

/// Turns what is learned into enrolled pods.
pub(super) struct ConfigLoop {
    pub(super) knowledge: Knowledge,
    /// What was learned while the node was another agent's.
    pub(super) learned: Option<Learned>,
    pub(super) enrolment: Arc<Mutex<Enrolment>>,
    pub(super) direct: Arc<Mutex<DirectFlows>>,
    pub(super) announcements: Announcements,
    /// Started when the first reading is in force: until then an agent that starts is as good as dead to the hooks.
    pub(super) heart: Option<Heart>,
    /// Dropped when the first reading is in force.
    pub(super) start: Option<Start>,
    /// Told when a configuration is in force.
    pub(super) probed: probe::Turn,
}

/// Held by an agent whose first reading is not in force yet; who waits for that is told by the drop.
#[derive(Debug)]
pub(super) struct Start {
    /// Of an agent that did not wait for its turn.
    pub(super) _first: Option<ReadyGuard>,
    /// Of one that did: the agent before it waits still.
    pub(super) turn: Option<TakingOver>,
}

/// A node is this agent's, but its pods are not yet.
#[derive(Debug)]
pub(super) struct TakingOver {
    pub(super) _standby: Standby,
    /// When the agent before it let go.
    pub(super) since: Instant,
}

impl ConfigLoop {
    pub(super) async fn run(mut self, stop: Stop) {
        if let Some(learned) = self.learned.take() {
            self.announcements.know(&learned.meshed);
            self.enforce(learned.digest);
        }
        let mut audit = interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep = interval(VANISHED);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.requested() => return self.knowledge.source.finish().await,
                reading = self.knowledge.source.next_reading() => self.take(reading).await,
                heard = self.announcements.next() => {
                    let is_due = self.announcements.take_in(heard, &mut self.enrolment.lock(), Instant::now());
                    if is_due && self.is_in_force() {
                        self.reconcile();
                    }
                }
                _ = sweep.tick(), if self.is_in_force() => self.sweep(),
                // What could not be enrolled is tried again, and what is enrolled is audited.
                // Before the first reading nobody knows which pods of an earlier agent are wanted.
                _ = audit.tick(), if self.is_in_force() => self.reconcile(),
            }
        }
    }

    fn is_in_force(&self) -> bool {
        self.start.is_none()
    }

    async fn take(&mut self, reading: Result<Reading, SourceError>) {
        let Some(learned) = self.knowledge.learn(reading) else {
            return;
        };
        self.announcements.know(&learned.meshed);
        // At once for the pods that are enrolled: what is forbidden ends before anything else is waited for.
        if self.is_in_force() {
            self.apply_direct();
        }
        // A pod without a certificate could only refuse: it is better enrolled a moment later.
        if !are_there(&self.knowledge.certificates).await {
            tracing::warn!(
                "some certificates are not there yet; their pods' traffic is refused until they are"
            );
        }
        self.enforce(learned.digest);
    }

    fn enforce(&mut self, digest: Option<String>) {
        self.reconcile();
        self.knowledge.board.in_force(digest);
        if let Some(heart) = self.heart.take() {
            heart.start();
        }
        self.probed.has_come();
        if let Some(turn) = self.start.take().and_then(|start| start.turn) {
            self.knowledge.telemetry.took_over(turn.since.elapsed());
        }
    }

    /// Notices soon which pods are gone.
    fn sweep(&mut self) {
        let mut enrolment = self.enrolment.lock();
        let reports = enrolment.sweep();
        self.announcements.keep_time(&mut enrolment, Instant::now());
        drop(enrolment);
        self.tell(&reports);
    }

    fn apply_direct(&self) {
        let present = self.enrolment.lock().present();
        self.direct
            .lock()
            .apply(&self.knowledge.snapshots.load(), present);
    }

    fn reconcile(&mut self) {
        let snapshot = self.knowledge.snapshots.load();
        let wanted = snapshot.local();
        let mut enrolment = self.enrolment.lock();
        let known = node_addrs::own().and_then(|mut addrs| {
            addrs.extend(snapshot.own_node());
            addrs.retain(|addr| snapshot.workload_at(*addr).is_none());
            enrolment.know_node(&addrs)
        });
        if let Err(error) = known {
            tracing::error!(%error, "probes of the node's kubelet may take the way of any plaintext");
        }
        let reports = enrolment.reconcile_among(wanted, &|uid| snapshot.workload(uid).is_some());
        let status = enrolment.status();
        self.announcements
            .settle(&snapshot, &status.pods, &mut enrolment, Instant::now());
        drop(enrolment);
        self.tell(&reports);
        let enrolled = status.pods.iter().filter(|pod| pod.is_served()).count();
        self.knowledge.telemetry.mesh().pods(wanted.len(), enrolled);
        if let Some((_, bypassed)) = status.counters.iter().find(|(name, _)| *name == BYPASSED) {
            self.knowledge.telemetry.mesh().bypassed(*bypassed);
        }
        for (map, entries) in &status.overflows {
            if self.knowledge.telemetry.mesh().map_overflowed(map, *entries) {
                tracing::error!(map, entries, "a map has no room: raise max_flows or max_pods");
            }
        }
        self.count_losses(&status.counters);
        self.apply_direct();
    }

    fn tell(&self, reports: &[Report]) {
        for report in reports {
            let pod = &report.pod;
            match &report.change {
                Change::Joined => tracing::info!(pod, "pod joined the mesh"),
                Change::JoinedLate { open } => {
                    tracing::info!(pod, open, "pod that ran already joined the mesh");
                    self.knowledge.telemetry.enrolment().joined_late(*open);
                }
                Change::Repaired { parts } => {
                    let names: Vec<_> = parts.iter().map(|part| part.name()).collect();
                    tracing::error!(
                        pod,
                        parts = names.join(" "),
                        "somebody changed a pod's capture; it is repaired"
                    );
                    self.knowledge.telemetry.mesh().capture_repaired(names);
                }
                Change::Unrepaired { why } => {
                    tracing::error!(pod, why, "a pod's capture was changed and cannot be repaired");
                }
                Change::Superseded { why } => tracing::error!(pod, why, "a pod's connections are refused"),
                Change::Forgotten => {
                    tracing::warn!(
                        pod,
                        "the object of a pod is gone and it runs still: it is refused until it ends"
                    );
                }
                Change::Left => tracing::info!(pod, "pod left the mesh"),
                Change::Failed { why } => tracing::error!(pod, why, "pod cannot join the mesh"),
                Change::Missed { why, waited } => {
                    let waited_s = waited.as_secs();
                    tracing::warn!(pod, why, waited_s, "pod is not there to join the mesh");
                }
                Change::ExceptionsChanged => tracing::info!(pod, "pod lets something else past"),
                Change::ExceptionsFailed { why } => {
                    tracing::error!(pod, why, "what a pod lets past is not in force");
                }
                Change::DnsChanged { is_captured } => {
                    tracing::info!(pod, is_captured, "DNS capture of a pod changed");
                }
                Change::DnsFailed { why } => tracing::warn!(
                    pod,
                    why,
                    "DNS of a pod is not captured: it asks its own resolvers"
                ),
                Change::LeftUncleanly { why } => tracing::error!(pod, why, "pod left traces"),
            }
        }
    }

    fn count_losses(&self, counters: &[(&'static str, u64)]) {
        let of = |wanted: Counter| {
            let mut counters = counters.iter();
            let found = counters.find(|(name, _)| *name == wanted.name());
            found.map(|(_, count)| *count)
        };
        if let (Some(lost), Some(unreported)) = (of(Counter::DirectLost), of(Counter::Unreported)) {
            self.knowledge.telemetry.direct().losses(lost, unreported);
        }
    }
}

/// Tells the hooks that the agent lives, from the threads that carry the traffic: when those are stuck, so is it.
#[derive(Debug)]
pub(super) struct Heart {
    pub(super) pulse: Arc<dyn Pulse>,
    pub(super) tasks: Tasks,
    pub(super) data: Handle,
    /// Another agent beats by now: this one does not say that there is none when it ends.
    pub(super) is_succeeded: Arc<AtomicBool>,
}

impl Heart {
    fn start(self) {
        let _on_data_threads = self.data.enter();
        self.tasks.spawn(
            "heartbeat",
            beat_until(self.pulse, self.is_succeeded, self.tasks.stop()),
        );
    }
}

async fn beat_until(pulse: Arc<dyn Pulse>, is_succeeded: Arc<AtomicBool>, stop: Stop) {
    let mut tick = interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_heard = true;
    loop {
        tokio::select! {
            () = stop.requested() => break,
            _ = tick.tick() => {
                let beaten = pulse.beat();
                if let (true, Err(error)) = (is_heard, &beaten) {
                    tracing::error!(%error, "the hooks cannot be told that the agent lives");
                }
                is_heard = beaten.is_ok();
            }
        }
    }
    if is_succeeded.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = pulse.stop() {
        tracing::warn!(%error, "the hooks cannot be told that the agent ends");
    }
}

/// Counts the flows that go past the agent, and ends what was missed.
pub(super) async fn watch_direct(
    direct: Arc<Mutex<DirectFlows>>,
    snapshots: Arc<SnapshotCell>,
    board: StatusBoard,
    stop: Stop,
) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_seen = true;
    loop {
        tokio::select! {
            () = stop.requested() => return,
            _ = tick.tick() => {
                let mut direct = direct.lock();
                let looked = direct.look(&snapshots.load());
                if let (true, Err(error)) = (is_seen, &looked) {
                    tracing::error!(%error, "what goes past the agent cannot be counted; tried again");
                }
                is_seen = looked.is_ok();
                board.direct(direct.status());
            }
        }
    }
}

/// Closes pooled connections that nobody uses.
pub(super) async fn sweep_pools(mesh: Arc<Mesh>, stop: Stop) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.requested() => return mesh.close_pools(),
            _ = tick.tick() => mesh.sweep_pools(),
        }
    }
}

/// How the kernel's counter of connections past a dead agent is called.
const BYPASSED: &str = Counter::Bypassed.name();
/// A sixth of what the hooks bear with.
const BEAT: Duration = Duration::from_millis(500);
/// Pods that are gone are noticed four times as often as all else.
const VANISHED: Duration = Duration::from_millis(500);
/// Every second: live bytes are in metrics ten times as often as they must be.
const LOOK: Duration = Duration::from_secs(1);
const AUDIT: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(1);
