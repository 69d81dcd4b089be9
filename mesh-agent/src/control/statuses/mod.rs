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
mod patience;
mod standing;
mod watch;
mod writer;

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kube::Client;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use self::events::{ClusterEvents, Teller};
use self::judge::Finding;
use self::kinds::KINDS;
use self::objects::Objects;
use self::patience::Patience;
use self::writer::{ClusterStatuses, Outcome, settle};
use crate::ca::election::Leadership;
use crate::control::conditions::Status;
use crate::identity::error_chain;
use crate::lifecycle::Stop;
use crate::snapshot::SnapshotSettings;
use crate::telemetry::CaMetrics;

pub use self::standing::{Unwritten, UnwrittenOne, WriterStanding, WriterStatus};

/// Writes status and events while its process leads.
pub struct StatusWriter {
    client: Client,
    leadership: Leadership,
    settings: SnapshotSettings,
    metrics: CaMetrics,
    /// Of this process, as the lease has it.
    identity: String,
    standing: WriterStanding,
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
            standing: WriterStanding::default(),
        }
    }

    /// How it stands, now and later.
    pub fn standing(&self) -> WriterStanding {
        self.standing.clone()
    }

    /// Works whenever it leads, until `stop`.
    pub async fn run(self, stop: Stop) {
        let mut leadership = self.leadership.clone();
        loop {
            self.leads(false);
            tokio::select! {
                () = stop.requested() => return,
                () = leadership.won() => {}
            }
            self.leads(true);
            tokio::select! {
                () = stop.requested() => return,
                () = leadership.lost() => {}
                () = Box::pin(self.term()) => {}
            }
        }
    }

    fn leads(&self, leads: bool) {
        self.metrics.leads(leads);
        self.standing.leads(leads);
    }

    /// One time of leading. Dropped when it ends: a request that is under way then is guarded by the version that it
    /// names.
    async fn term(&self) {
        let objects = Arc::new(Objects::new(KINDS));
        let watches = KINDS.iter().map(|kind| {
            let (client, standing) = (self.client.clone(), self.standing.clone());
            watch::follow(client, kind, Arc::clone(&objects), standing)
        });
        tokio::join!(join_all(watches), self.write(&objects));
    }

    async fn write(&self, objects: &Objects) {
        let statuses = ClusterStatuses::new(self.client.clone());
        let events = ClusterEvents::new(self.client.clone(), self.identity.clone());
        let mut round = Round {
            writer: self,
            statuses,
            teller: Teller::new(events),
            patience: Patience::default(),
        };
        let mut again = None;
        loop {
            tokio::select! {
                () = objects.changed() => {}
                () = reached(again) => {}
            }
            // What else changes at the same time is judged with it.
            sleep(SETTLING).await;
            let Some(known) = objects.all_once_complete() else {
                continue;
            };
            let settings = self.settings.clone();
            match spawn_blocking(move || judge::judge(&known, &settings)).await {
                Ok(findings) => again = round.apply(findings).await,
                Err(error) => {
                    tracing::error!(%error, "objects could not be judged; tried again");
                    again = Some(Instant::now() + RETRY);
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
    patience: Patience,
}

impl Round<'_> {
    /// Writes what changed, one after the other, what failed before last; when something that is left is to be tried again.
    async fn apply(&mut self, findings: Vec<Finding>) -> Option<Instant> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let unwritten = self.unwritten(&findings);
        let (failed, fresh): (Vec<_>, Vec<_>) = unwritten
            .iter()
            .partition(|(finding, _)| self.patience.has_failed(&finding.object.name));
        for (finding, wanted) in fresh.into_iter().chain(failed) {
            let object = &finding.object;
            if !self
                .patience
                .is_due(&object.name, object.generation(), Instant::now())
            {
                continue;
            }
            pace.tick().await;
            if !self.writer.leadership.holds() {
                return Some(Instant::now() + RETRY);
            }
            self.write(finding, wanted).await;
        }
        let names = unwritten.iter().map(|(finding, _)| &*finding.object.name);
        let standing = &self.writer.standing;
        standing.statuses(Unwritten::of(&self.patience, names.map(|name| (name, name))));
        let told = self.teller.tell(&findings).await;
        self.writer.metrics.events(told.done, told.failed);
        standing.events(told.unwritten);
        [self.patience.next(), told.again].into_iter().flatten().min()
    }

    /// What has another status than it should have.
    fn unwritten<'f>(&mut self, findings: &'f [Finding]) -> Vec<(&'f Finding, &'f Status)> {
        let wanted = findings
            .iter()
            .filter_map(|finding| Some((finding, finding.status.as_ref()?)));
        let unwritten: Vec<_> = wanted
            .filter(|(finding, status)| merge::merged(&finding.object.value, status).is_some())
            .collect();
        let names: HashSet<&str> = unwritten.iter().map(|(one, _)| &*one.object.name).collect();
        self.patience.retain(|name| names.contains(name));
        unwritten
    }

    async fn write(&mut self, finding: &Finding, wanted: &Status) {
        let object = &finding.object;
        match settle(&self.statuses, object, wanted).await {
            Ok(outcome) => {
                if outcome == Outcome::Written {
                    self.writer.metrics.status_written(true);
                    tracing::debug!(object = %object.name, "status written");
                }
                self.patience.succeeded(&object.name);
            }
            Err(error) => {
                self.writer.metrics.status_written(false);
                let said = error_chain(&error);
                let now = Instant::now();
                if self
                    .patience
                    .failed(&object.name, object.generation(), &said, now)
                {
                    tracing::error!(object = %object.name, error = said, "a status cannot be written; tried again");
                }
            }
        }
    }
}

/// Ends at that moment; never, where there is none.
async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// How long changes are gathered.
const SETTLING: Duration = Duration::from_millis(300);
/// What could not be judged, or was left to the next leader, is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// Fifty writes a second at most.
const PACE: Duration = Duration::from_millis(20);
