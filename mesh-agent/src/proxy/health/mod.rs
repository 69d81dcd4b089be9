//! Asks the endpoints of Services with a health check how they are, one task for all of them.
//!
//! Place in the walk: beside it; picks read what is found. Must not know: how a question travels, what a finding leads to.
//!
//! Asked are endpoints that pods of this node use, on behalf of the pod that used them last: the agent has no identity of
//! its own (ADR 0031).

mod schedule;

use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::Rng;
use tokio::time::{sleep_until, timeout};

use self::schedule::{Schedule, Turn, turn};
use crate::balance::{Change, Finding};
use crate::lifecycle::Stop;
use crate::proxy::Mesh;
use crate::proxy::http::probe::{Answer, probe};
use crate::proxy::pods::ServedPod;
use crate::snapshot::{Checked, Snapshot};
use crate::telemetry::HealthFinding;

/// Until `stop`. Cancel-safe: checks that are under way are given up.
pub async fn check_health(mesh: Arc<Mesh>, stop: Stop) {
    let mut published = mesh.snapshots.subscribe();
    let mut checks = Checks {
        mesh: Arc::clone(&mesh),
        schedule: Schedule::default(),
        under_way: FuturesUnordered::new(),
    };
    loop {
        checks.adopt(&mesh.snapshots.load());
        loop {
            let due = checks.next_due();
            tokio::select! {
                () = stop.requested() => return,
                Ok(()) = published.changed() => break,
                Some(checked) = checks.under_way.next(), if !checks.under_way.is_empty() => {
                    checks.again(&checked);
                }
                () = until(due) => checks.begin(Instant::now()),
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

struct Checks {
    mesh: Arc<Mesh>,
    /// An endpoint is here or under way, never both: a slow check is never overtaken by the next one. Who is in no
    /// snapshot any more is forgotten when its turn comes.
    schedule: Schedule<Weak<Checked>>,
    under_way: FuturesUnordered<BoxFuture<'static, Arc<Checked>>>,
}

impl Checks {
    /// Takes in what is new, each at a random moment of its interval: agents do not march in step.
    fn adopt(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        for checked in snapshot.checked().filter(|checked| checked.take()) {
            let offset = checked.check.interval.mul_f64(rand::rng().random());
            self.schedule.add(now + offset, Arc::downgrade(checked));
        }
    }

    /// `None` while there is nothing to begin, or no room for it.
    fn next_due(&self) -> Option<Instant> {
        let has_room = self.under_way.len() < MAX_UNDER_WAY;
        self.schedule.next().filter(|_| has_room)
    }

    fn begin(&mut self, now: Instant) {
        let Some(checked) = self.schedule.take_due(now).and_then(|checked| checked.upgrade()) else {
            return;
        };
        let used = checked.usage.last();
        let caller = used.and_then(|used| self.caller(&checked, used.by));
        match turn(
            &checked.check,
            used.filter(|_| caller.is_some()),
            checked.last(),
            now,
        ) {
            Turn::Ask => {
                let (mesh, asked) = (Arc::clone(&self.mesh), Arc::clone(&checked));
                checked.began(now);
                let check = async move {
                    if let Some(caller) = caller {
                        ask(&mesh, &asked, &caller).await;
                    }
                    asked
                };
                self.under_way.push(Box::pin(check));
            }
            Turn::Wait => self.again(&checked),
            Turn::Forget => {
                if checked.health.forget() {
                    tracing::info!(endpoint = %checked, "nobody uses an unhealthy endpoint any more: it counts as healthy until it is asked again");
                }
                self.again(&checked);
            }
        }
    }

    /// The pod that used the Service last, if it is still served.
    fn caller(&self, checked: &Checked, by: std::net::IpAddr) -> Option<Arc<ServedPod>> {
        let snapshot = self.mesh.snapshots.load();
        let pod = snapshot.workload_at(by)?;
        tracing::trace!(endpoint = %checked, pod = %pod.pod_name, "asked on behalf of");
        self.mesh.pods.find(&pod.uid)
    }

    fn again(&mut self, checked: &Arc<Checked>) {
        let jitter = rand::rng().random_range(1.0 - JITTER..1.0 + JITTER);
        let due = Instant::now() + checked.check.interval.mul_f64(jitter);
        self.schedule.add(due, Arc::downgrade(checked));
    }
}

/// One check, to the end of its time at most.
async fn ask(mesh: &Arc<Mesh>, checked: &Checked, caller: &Arc<ServedPod>) {
    let answered = timeout(checked.check.timeout, probe(mesh, checked, caller)).await;
    let answer = answered.unwrap_or_else(|_elapsed| Answer::none("no answer in time"));
    let (finding, result) = match answer.finding {
        Finding::Passed => (Finding::Passed, HealthFinding::Passed),
        Finding::Failed => (Finding::Failed, HealthFinding::Failed),
        Finding::NoAnswer => (Finding::NoAnswer, HealthFinding::NoAnswer),
    };
    mesh.telemetry.resilience().checked(result);
    let why = answer.why;
    tracing::debug!(endpoint = %checked, result = result.as_str(), %why, "health check");
    match checked.found(finding, Instant::now()) {
        Some(Change::Unhealthy) => tracing::warn!(endpoint = %checked, %why, "endpoint is unhealthy"),
        Some(Change::Healthy) => tracing::info!(endpoint = %checked, "endpoint is healthy again"),
        None => {}
    }
}

/// Checks of one agent that are under way at a time; more wait for their turn. With a timeout of 1 s that is 64 endpoints
/// a second that do not answer at all, and several thousand that do.
const MAX_UNDER_WAY: usize = 64;
/// Each interval is longer or shorter by at most this part.
const JITTER: f64 = 0.1;
