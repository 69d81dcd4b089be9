//! Which of two runtimes runs the tasks of a group: that of groups that want little, or that of groups that want much.
//!
//! Place in the walk: between [`Tasks`](super::Tasks) and the turns that groups of one runtime take. Must not know: what any
//! task does.
//!
//! Turns cannot interrupt a poll. The kernel can: it lets a thread that is woken and has had little interrupt one that has had
//! much. So a group that takes more than its part of a thread goes on on threads where all such groups are, and comes back
//! once it has been calm. Its tasks move one by one, each when it is next polled; their sockets and timers stay
//! with the driver that they were registered with, which wakes them wherever they are.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::task::NamedTask;
use super::turns::{Rounds, Turns, in_poll_begun, woken};

/// The runtimes of some groups, and the rounds of each.
#[derive(Debug)]
pub(super) struct Lanes {
    since: Instant,
    ordinary: Runs,
    /// `None`: groups stay where they are, whatever they want.
    bulk: Option<Runs>,
    /// Groups that want much now.
    heavy: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Runs {
    rounds: Arc<Rounds>,
    /// `None`: whichever runtime a task is started from.
    on: Option<Handle>,
}

/// What a group has of the lanes.
#[derive(Debug)]
pub(super) struct Share {
    lanes: Arc<Lanes>,
    ordinary: Turns,
    bulk: Option<Turns>,
    demand: Demand,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Ordinary,
    Bulk,
}

/// How much of a thread a group takes, lately.
#[derive(Debug)]
struct Demand {
    is_heavy: AtomicBool,
    /// How many groups of all are.
    heavy: Arc<AtomicU64>,
    /// When this window began, in nanoseconds.
    since: AtomicU64,
    /// Nanoseconds that polls took in it.
    taken: AtomicU64,
}

impl Lanes {
    /// One lane: whichever runtime a task is started from.
    pub(super) fn one() -> Self {
        Self {
            since: Instant::now(),
            ordinary: Runs::new(SHORT, None),
            bulk: None,
            heavy: Arc::default(),
        }
    }

    fn runs(&self, lane: Lane) -> &Runs {
        match (lane, &self.bulk) {
            (Lane::Bulk, Some(bulk)) => bulk,
            (Lane::Ordinary, _) | (_, None) => &self.ordinary,
        }
    }

    /// Groups that want little run on the one, those that want much on the other, counted as `heavy`.
    pub(super) fn two(ordinary: Handle, bulk: Handle, heavy: Arc<AtomicU64>) -> Self {
        Self {
            since: Instant::now(),
            ordinary: Runs::new(SHORT, Some(ordinary)),
            bulk: Some(Runs::new(LONG, Some(bulk))),
            heavy,
        }
    }
}

impl Runs {
    fn new(polls: u64, on: Option<Handle>) -> Self {
        Self {
            rounds: Arc::new(Rounds::of_turns(polls)),
            on,
        }
    }
}

impl Share {
    pub(super) fn new(lanes: &Arc<Lanes>) -> Self {
        Self {
            ordinary: Turns::new(&lanes.ordinary.rounds),
            bulk: lanes.bulk.as_ref().map(|bulk| Turns::new(&bulk.rounds)),
            lanes: Arc::clone(lanes),
            demand: Demand::new(Arc::clone(&lanes.heavy)),
        }
    }

    /// Runs `task` where its group runs, now and later.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns for groups")]
    pub(super) fn start(self: Arc<Self>, task: NamedTask) {
        let lane = self.lane();
        let on = self.lanes.runs(lane).on.clone();
        let followed = self.follow(lane, task);
        // The group joins its tasks by count; a handle of each would only grow.
        drop(match on {
            Some(on) => on.spawn(followed),
            None => tokio::spawn(followed),
        });
    }

    async fn follow(self: Arc<Self>, lane: Lane, mut task: NamedTask) {
        if self.run(lane, &mut task).await.is_none() {
            self.start(task);
        }
    }

    /// Runs `task`, each poll of it in its turn; `None` once its group is not in this lane any more.
    async fn run<T>(&self, lane: Lane, mut task: impl Future<Output = T> + Unpin) -> Option<T> {
        let turns = self.turns(lane);
        let mut place = None;
        loop {
            turns.mine(&mut place).await;
            if self.lane() != lane {
                return None;
            }
            let begun = Instant::now();
            let polled = poll_fn(|cx| {
                let polled = in_poll_begun(begun.into_std(), || Pin::new(&mut task).poll(cx));
                Poll::Ready(polled)
            })
            .await;
            self.spend(turns, begun);
            if let Poll::Ready(done) = polled {
                return Some(done);
            }
            woken().await;
        }
    }

    fn spend(&self, turns: &Turns, begun: Instant) {
        let now = Instant::now();
        let taken = nanoseconds(now.saturating_duration_since(begun));
        turns.spend(taken);
        if self.bulk.is_some() {
            let now = nanoseconds(now.saturating_duration_since(self.lanes.since));
            self.demand.spend(now, taken);
        }
    }

    fn lane(&self) -> Lane {
        if self.demand.is_heavy.load(Ordering::Relaxed) {
            Lane::Bulk
        } else {
            Lane::Ordinary
        }
    }

    fn turns(&self, lane: Lane) -> &Turns {
        match (lane, &self.bulk) {
            (Lane::Bulk, Some(bulk)) => bulk,
            (Lane::Ordinary, _) | (_, None) => &self.ordinary,
        }
    }
}

impl Demand {
    fn new(heavy: Arc<AtomicU64>) -> Self {
        Self {
            is_heavy: AtomicBool::new(false),
            heavy,
            since: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        }
    }

    /// A poll that ended at `now` took so long, in nanoseconds both. Of two threads that say so at once either may be heard.
    ///
    /// Of a long poll only the beginning counts: the kernel may have let others run in the middle of it.
    fn spend(&self, now: u64, taken: u64) {
        let taken = taken.min(MOST);
        let taken = self.taken.fetch_add(taken, Ordering::Relaxed) + taken;
        let window = now.saturating_sub(self.since.load(Ordering::Relaxed));
        if self.is_heavy.load(Ordering::Relaxed) {
            if window >= CALM {
                self.begin(now, taken >= CALM / LITTLE);
            }
        } else if window >= WINDOW || taken >= WINDOW / MUCH {
            self.begin(now, taken >= WINDOW / MUCH);
        }
    }

    fn begin(&self, now: u64, is_heavy: bool) {
        match (self.is_heavy.swap(is_heavy, Ordering::Relaxed), is_heavy) {
            (false, true) => self.heavy.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.heavy.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        self.taken.store(0, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        if *self.is_heavy.get_mut() {
            self.heavy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Polls of a turn beside neighbours: where somebody may want little, and where all want much.
const SHORT: u64 = 2;
const LONG: u64 = 16;
/// The window in which a group is found to want much, in nanoseconds, and the part of a thread that it takes then.
const WINDOW: u64 = 20_000_000;
const MUCH: u64 = 4;
/// Of one poll.
const MOST: u64 = WINDOW / 64;
/// How long it is watched before it is found to want little again, and the part of a thread that it takes at most meanwhile.
const CALM: u64 = 1_000_000_000;
const LITTLE: u64 = 8;

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
