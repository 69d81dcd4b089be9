//! Asks one endpoint after the other, each in its own time: one task for all of them.
//!
//! Place in the walk: beside it, as the whole of health checks. Must not know: how a question travels, and by what clock
//! the machine goes: a test stops tokio's.

use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::Rng;
use tokio::time::{sleep_until, timeout};

use super::schedule::{Schedule, Turn, turn};
use crate::balance::{Change, Finding};
use crate::lifecycle::Stop;
use crate::proxy::http::probe::Answer;
use crate::snapshot::{Checked, Snapshot, SnapshotCell};

/// Who can ask an endpoint: the seam for tests. Called once for each turn of an endpoint; must not block.
pub(in crate::proxy) trait Asker: Send {
    /// The question to `checked` on behalf of the pod at `by`, which begins when it is first polled and may be dropped
    /// at any time; `None` where that pod is not served (any more).
    fn question(&self, checked: &Arc<Checked>, by: IpAddr) -> Option<BoxFuture<'static, Answer>>;

    /// Hears of each question that was answered, or was not in time.
    fn found(&self, finding: Finding);
}

/// Until `stop`. Cancel-safe: questions that are under way are given up.
pub(in crate::proxy) async fn ask_in_turn(asker: impl Asker, snapshots: &SnapshotCell, stop: Stop) {
    let mut published = snapshots.subscribe();
    let mut rounds = Rounds {
        asker,
        schedule: Schedule::default(),
        under_way: FuturesUnordered::new(),
    };
    loop {
        rounds.adopt(&snapshots.load());
        loop {
            let due = rounds.next_due();
            tokio::select! {
                () = stop.requested() => return,
                Ok(()) = published.changed() => break,
                Some((checked, answer)) = rounds.under_way.next(), if !rounds.under_way.is_empty() => {
                    rounds.take_in(&checked, &answer);
                    rounds.again(&checked);
                }
                () = until(due) => rounds.begin(now()),
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

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

struct Rounds<A> {
    asker: A,
    /// An endpoint is here or under way, never both: a slow check is never overtaken by the next one. Who is in no
    /// snapshot any more is forgotten when its turn comes.
    schedule: Schedule<Weak<Checked>>,
    under_way: FuturesUnordered<BoxFuture<'static, (Arc<Checked>, Answer)>>,
}

impl<A: Asker> Rounds<A> {
    /// Takes in what is new, each at a random moment of its interval: agents do not march in step.
    fn adopt(&mut self, snapshot: &Snapshot) {
        let now = now();
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
        let question = used.and_then(|used| self.asker.question(&checked, used.by));
        let used = used.filter(|_| question.is_some());
        match (turn(&checked.check, used, checked.last(), now), question) {
            (Turn::Ask, Some(question)) => {
                checked.began(now);
                let asked = Arc::clone(&checked);
                let check = async move {
                    let answered = timeout(asked.check.timeout, question).await;
                    let answer = answered.unwrap_or_else(|_elapsed| Answer::none("no answer in time"));
                    (asked, answer)
                };
                self.under_way.push(Box::pin(check));
            }
            (Turn::Forget, _) | (Turn::Ask, None) => {
                if checked.health.forget() {
                    tracing::info!(endpoint = %checked, "nobody uses an unhealthy endpoint any more: it counts as healthy until it is asked again");
                }
                self.again(&checked);
            }
            (Turn::Wait, _) => self.again(&checked),
        }
    }

    fn take_in(&self, checked: &Checked, answer: &Answer) {
        self.asker.found(answer.finding);
        let (finding, why) = (answer.finding, &answer.why);
        tracing::debug!(endpoint = %checked, ?finding, %why, "health check");
        match checked.found(finding, now()) {
            Some(Change::Unhealthy) => tracing::warn!(endpoint = %checked, %why, "endpoint is unhealthy"),
            Some(Change::Healthy) => tracing::info!(endpoint = %checked, "endpoint is healthy again"),
            None => {}
        }
    }

    fn again(&mut self, checked: &Arc<Checked>) {
        let jitter = rand::rng().random_range(1.0 - JITTER..1.0 + JITTER);
        let due = now() + checked.check.interval.mul_f64(jitter);
        self.schedule.add(due, Arc::downgrade(checked));
    }
}

/// Checks of one agent that are under way at a time; more wait for their turn. With a timeout of 1 s that is 64 endpoints
/// a second that do not answer at all, and several thousand that do.
pub(in crate::proxy) const MAX_UNDER_WAY: usize = 64;
/// Each interval is longer or shorter by at most this part.
pub(in crate::proxy) const JITTER: f64 = 0.1;
