//! The agent's own loops: configuration in, enrolment kept true, unused connections closed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_common::counter::Counter;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::control::{Reading, Source, SourceError};
use crate::identity::Certificates;
use crate::kernel::Pulse;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::status::Change;
use crate::lifecycle::{ReadyGuard, Stop, Tasks};
use crate::mesh::facts::Rejection;
use crate::proxy::Mesh;
use crate::snapshot::{Snapshot, SnapshotCell, SnapshotSettings};
use crate::status::StatusBoard;
use crate::telemetry::Telemetry;

/// Turns readings of the source into snapshots, and snapshots into enrolled pods.
pub(super) struct ConfigLoop {
    pub(super) source: Box<dyn Source>,
    pub(super) settings: SnapshotSettings,
    pub(super) snapshots: Arc<SnapshotCell>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) enrolment: Arc<Mutex<Enrolment>>,
    pub(super) telemetry: Telemetry,
    pub(super) board: StatusBoard,
    /// Started when the first reading is in force: until then an agent that starts is as good as dead to the hooks.
    pub(super) heart: Option<Heart>,
    /// Dropped when the first reading is in force.
    pub(super) first: Option<ReadyGuard>,
}

impl ConfigLoop {
    pub(super) async fn run(mut self, stop: Stop) {
        let mut audit = interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.requested() => return,
                reading = self.source.next_reading() => self.take(reading).await,
                // What could not be enrolled is tried again, and pods that vanished are noticed.
                // Before the first reading nobody knows which pods of an earlier agent are wanted.
                _ = audit.tick(), if self.first.is_none() => self.reconcile(),
            }
        }
    }

    async fn take(&mut self, reading: Result<Reading, SourceError>) {
        let Reading {
            facts,
            mut rejections,
            ..
        } = match reading {
            Ok(reading) => reading,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "configuration cannot be read; the last one stays in force");
                self.board.source_failed(error.to_string());
                return;
            }
        };
        let previous = self.snapshots.load();
        let (snapshot, contradictions) = Snapshot::build(&facts, &self.settings, Some(&previous));
        rejections.extend(contradictions);
        rejections.sort();
        rejections.dedup();
        report(&rejections, &self.board.rejections());
        let version = snapshot.version();
        let kinds = rejections.iter().map(|rejection| kind_of(&rejection.object));
        self.telemetry
            .mesh()
            .config_published(version, SystemTime::now(), kinds);
        tracing::info!(
            version,
            pods = snapshot.local().len(),
            rejections = rejections.len(),
            "new configuration"
        );
        self.board.published(rejections);
        self.certificates
            .want(snapshot.local().iter().map(|pod| pod.identity.clone()));
        self.snapshots.publish(snapshot);
        // A pod without a certificate could only refuse: it is better enrolled a moment later.
        if timeout(CERTIFICATE_PATIENCE, self.certificates.ready())
            .await
            .is_err()
        {
            tracing::warn!(
                "some certificates are not there yet; their pods' traffic is refused until they are"
            );
        }
        self.reconcile();
        if let Some(heart) = self.heart.take() {
            heart.start();
        }
        self.first = None;
    }

    fn reconcile(&self) {
        let snapshot = self.snapshots.load();
        let wanted = snapshot.local();
        let mut enrolment = self.enrolment.lock();
        for report in enrolment.reconcile(wanted) {
            match &report.change {
                Change::Joined => tracing::info!(pod = report.pod, "pod joined the mesh"),
                Change::Repaired { hooks } => {
                    tracing::error!(
                        pod = report.pod,
                        ?hooks,
                        "somebody took hooks away; they are linked again"
                    );
                    self.telemetry.mesh().hooks_repaired(hooks.len());
                }
                Change::Unrepaired { why } => {
                    tracing::error!(
                        pod = report.pod,
                        why,
                        "hooks are missing and cannot be linked again"
                    );
                }
                Change::Left => tracing::info!(pod = report.pod, "pod left the mesh"),
                Change::Failed { why } => tracing::error!(pod = report.pod, why, "pod cannot join the mesh"),
                Change::ExclusionsChanged => tracing::info!(pod = report.pod, "pod excludes something else"),
                Change::ExclusionsFailed { why } => {
                    tracing::error!(pod = report.pod, why, "what a pod excludes is not in force");
                }
                Change::LeftUncleanly { why } => tracing::error!(pod = report.pod, why, "pod left traces"),
            }
        }
        let status = enrolment.status();
        let enrolled = status.pods.iter().filter(|pod| pod.present).count();
        self.telemetry.mesh().pods(wanted.len(), enrolled);
        if let Some((_, bypassed)) = status.counters.iter().find(|(name, _)| *name == BYPASSED) {
            self.telemetry.mesh().bypassed(*bypassed);
        }
    }
}

/// Tells the hooks that the agent lives, from the threads that carry the traffic: when those are stuck, so is it.
#[derive(Debug)]
pub(super) struct Heart {
    pub(super) pulse: Arc<dyn Pulse>,
    pub(super) tasks: Tasks,
    pub(super) data: Handle,
}

impl Heart {
    fn start(self) {
        let _on_data_threads = self.data.enter();
        self.tasks
            .spawn("heartbeat", beat_until(self.pulse, self.tasks.stop()));
    }
}

async fn beat_until(pulse: Arc<dyn Pulse>, stop: Stop) {
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
    if let Err(error) = pulse.stop() {
        tracing::warn!(%error, "the hooks cannot be told that the agent ends");
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

/// Says each rejection once, when it appears.
fn report(now: &[Rejection], before: &[Rejection]) {
    for rejection in now.iter().filter(|rejection| !before.contains(rejection)) {
        tracing::warn!(
            origin = rejection.origin,
            object = rejection.object,
            field = rejection.field,
            reason = rejection.reason,
            "object or field left out"
        );
    }
}

/// The kind of a rejected object as a metric label: from a closed set, whatever the manifest said.
fn kind_of(object: &str) -> &'static str {
    let kind = object.split(' ').next().unwrap_or_default();
    KINDS.into_iter().find(|known| *known == kind).unwrap_or("other")
}

const KINDS: [&str; 10] = [
    "Namespace",
    "Node",
    "Pod",
    "Service",
    "EndpointSlice",
    "HTTPRoute",
    "PeerAuthentication",
    "AuthorizationPolicy",
    "DestinationRule",
    "List",
];
/// How the kernel's counter of connections past a dead agent is called.
const BYPASSED: &str = Counter::Bypassed.name();
/// A sixth of what the hooks bear with.
const BEAT: Duration = Duration::from_millis(500);
const AUDIT: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(1);
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(3);
