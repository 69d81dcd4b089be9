//! The one writer of status: watches what has a status, judges it as an agent would, and writes what changed.
//!
//! Place in the walk: none; the leader of the CAs runs it. Must not know: pods, nodes, traffic.
//!
//! It judges the very objects that it holds, so that what it writes is about the generation that it names. Nothing is
//! written before every kind is known, as a Service that was not listed yet would be taken for one that is not there.

mod events;
mod judge;
mod kinds;
mod merge;
mod objects;
mod watch;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kube::Client;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::events::{ClusterEvents, Teller};
use self::judge::Finding;
use self::kinds::KINDS;
use self::objects::Objects;
use self::writer::{ClusterStatuses, Outcome, settle};
use crate::ca::election::Leadership;
use crate::identity::error_chain;
use crate::lifecycle::Stop;
use crate::snapshot::SnapshotSettings;
use crate::telemetry::CaMetrics;

/// Writes status and events while its process leads.
pub struct StatusWriter {
    client: Client,
    leadership: Leadership,
    settings: SnapshotSettings,
    metrics: CaMetrics,
    /// Of this process, as the lease has it.
    identity: String,
}

impl StatusWriter {
    /// Asks nothing before it leads.
    pub fn new(
        client: Client,
        leadership: Leadership,
        settings: SnapshotSettings,
        metrics: CaMetrics,
        identity: String,
    ) -> Self {
        Self {
            client,
            leadership,
            settings,
            metrics,
            identity,
        }
    }

    /// Works whenever it leads, until `stop`.
    pub async fn run(self, stop: Stop) {
        let mut leadership = self.leadership.clone();
        loop {
            self.metrics.leads(false);
            tokio::select! {
                () = stop.requested() => return,
                () = leadership.won() => {}
            }
            self.metrics.leads(true);
            tokio::select! {
                () = stop.requested() => return,
                () = leadership.lost() => {}
                () = Box::pin(self.term()) => {}
            }
        }
    }

    /// One time of leading. Dropped when it ends: a request that is under way then is guarded by the version that it
    /// names.
    async fn term(&self) {
        let objects = Arc::new(Objects::new(KINDS));
        let watches = KINDS
            .iter()
            .map(|kind| watch::follow(self.client.clone(), kind, Arc::clone(&objects)));
        tokio::join!(join_all(watches), self.write(&objects));
    }

    async fn write(&self, objects: &Objects) {
        let statuses = ClusterStatuses::new(self.client.clone());
        let events = ClusterEvents::new(self.client.clone(), self.identity.clone());
        let mut round = Round {
            writer: self,
            statuses,
            teller: Teller::new(events),
            complaints: HashMap::new(),
        };
        let mut is_left = false;
        loop {
            tokio::select! {
                () = objects.changed() => {}
                () = sleep(RETRY), if is_left => {}
            }
            // What else changes at the same time is judged with it.
            sleep(SETTLING).await;
            let Some(known) = objects.all_once_complete() else {
                continue;
            };
            let settings = self.settings.clone();
            match spawn_blocking(move || judge::judge(&known, &settings)).await {
                Ok(findings) => is_left = round.apply(findings).await,
                Err(error) => {
                    tracing::error!(%error, "objects could not be judged; tried again");
                    is_left = true;
                }
            }
        }
    }
}

impl std::fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusWriter")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What lasts from one judgement to the next.
struct Round<'w> {
    writer: &'w StatusWriter,
    statuses: ClusterStatuses,
    teller: Teller<ClusterEvents>,
    /// What could not be written was told once.
    complaints: HashMap<Arc<str>, String>,
}

impl Round<'_> {
    /// Writes what changed, one after the other; true where something is left to be tried again.
    async fn apply(&mut self, findings: Vec<Finding>) -> bool {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_left = false;
        for finding in &findings {
            let Some(wanted) = &finding.status else {
                continue;
            };
            if merge::merged(&finding.object.value, wanted).is_none() {
                self.complaints.remove(&finding.object.name);
                continue;
            }
            pace.tick().await;
            if !self.writer.leadership.holds() {
                return true;
            }
            is_left |= !self.write(finding, wanted).await;
        }
        let told = self.teller.tell(&findings).await;
        self.writer.metrics.events(told.done, told.failed);
        is_left || told.is_left
    }

    /// False where it has to be tried again.
    async fn write(&mut self, finding: &Finding, wanted: &super::conditions::Status) -> bool {
        let object = &finding.object;
        match settle(&self.statuses, object, wanted).await {
            Ok(outcome) => {
                if outcome == Outcome::Written {
                    self.writer.metrics.status_written(true);
                    tracing::debug!(object = %object.name, "status written");
                }
                self.complaints.remove(&object.name);
                true
            }
            Err(error) => {
                self.writer.metrics.status_written(false);
                let said = error_chain(&error);
                if self.complaints.get(&object.name) != Some(&said) {
                    tracing::error!(object = %object.name, error = said, "a status cannot be written; tried again");
                    self.complaints.insert(Arc::clone(&object.name), said);
                }
                false
            }
        }
    }
}

/// How long changes are gathered.
const SETTLING: Duration = Duration::from_millis(300);
/// What could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// Fifty writes a second at most.
const PACE: Duration = Duration::from_millis(20);
