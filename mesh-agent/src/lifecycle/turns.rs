//! A fair share of a runtime's threads for each group of tasks, however many of them want to run.
//!
//! Place in the walk: below [`Tasks`](super::Tasks) and [`lanes`](super::lanes); each pod's tasks are such a group. Must not know: what any task does.
//!
//! tokio runs what is ready in the order in which it became ready: a thousand busy connections of one pod would all run
//! before the one of its neighbour. So a group has so many polls and so much time, and gets more only after everything else
//! that was ready, of any group, had its turn, and after the sockets were asked for what is new. What a poll takes beyond the
//! time of its turn is taken off the next ones. Among groups that want more than they get that is a round robin (deficit round
//! robin, Shreedhar and Varghese 1995); one that wants little finds its share waiting whenever it comes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::task::yield_now;

/// The rounds of all groups that share the threads of a runtime.
#[derive(Debug)]
pub(super) struct Rounds {
    /// Polls of a turn while other groups have turns, too.
    shared: u64,
    /// How many turns of any group began because its last one was used up.
    begun: AtomicU64,
    /// Groups so far: each has its number.
    groups: AtomicU64,
    /// The group that had a turn last, and the round in which that was last another one than before.
    latest: AtomicU64,
    changed: AtomicU64,
}

/// The polls of one group of tasks.
#[derive(Debug)]
pub(super) struct Turns {
    rounds: Arc<Rounds>,
    number: u64,
    /// Polls that need nobody's leave.
    left: AtomicU64,
    /// The round of [`Rounds`] in which they were granted.
    granted: AtomicU64,
    /// Nanoseconds that polls took, less what turns granted since.
    spent: AtomicU64,
    /// Nanoseconds of a poll, lately.
    usual: AtomicU64,
    round: Mutex<Round>,
}

/// What happens once none is left.
#[derive(Debug, Default)]
struct Round {
    /// One task has stepped back behind all others, and begins the next round when it is polled again.
    is_led: bool,
    waiting: VecDeque<Arc<Place>>,
}

/// Where a task waits: made when it first does, and used again.
#[derive(Debug, Default)]
pub(super) struct Place {
    told: AtomicU8,
    waker: AtomicWaker,
}

impl Rounds {
    /// So many polls a turn: few where a group should not wait, more where many want much.
    pub(super) fn of_turns(shared: u64) -> Self {
        Self {
            shared,
            begun: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            changed: AtomicU64::new(0),
        }
    }

    /// The turn of a group begins; whether another group had one lately.
    fn turn_of(&self, number: u64, now: u64) -> bool {
        if self.latest.load(Ordering::Relaxed) != number {
            self.latest.store(number, Ordering::Relaxed);
            self.changed.store(now, Ordering::Relaxed);
        }
        now.saturating_sub(self.changed.load(Ordering::Relaxed)) < LATELY
    }
}

impl Turns {
    pub(super) fn new(rounds: &Arc<Rounds>) -> Self {
        Self {
            number: rounds.groups.fetch_add(1, Ordering::Relaxed) + 1,
            rounds: Arc::clone(rounds),
            left: AtomicU64::new(rounds.shared),
            granted: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            usual: AtomicU64::new(0),
            round: Mutex::default(),
        }
    }

    /// Waits for the next poll that this group has; `place` is where its task waits, if it does.
    pub(super) async fn mine(&self, place: &mut Option<Arc<Place>>) {
        if !self.take() {
            self.turn(place).await;
        }
    }

    /// A poll took so many nanoseconds.
    pub(super) fn spend(&self, nanoseconds: u64) {
        self.spent.fetch_add(nanoseconds, Ordering::Relaxed);
        // Which of two threads is heard matters little.
        let usual = self.usual.load(Ordering::Relaxed);
        let usual = usual - usual / 8 + nanoseconds / 8;
        self.usual.store(usual, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        let now = self.rounds.begun.load(Ordering::Relaxed);
        if self.granted.load(Ordering::Relaxed) != now {
            self.renew(now);
        }
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.is_ok()
    }

    /// Others had turns since this group had one: it has another, unless it waits for one already or has used up more than
    /// these turns would give.
    fn renew(&self, now: u64) {
        let round = self.round.lock();
        let before = self.granted.swap(now, Ordering::Relaxed);
        if round.is_led || !self.pay(now.saturating_sub(before).saturating_mul(self.rounds.shared)) {
            return;
        }
        self.rounds.turn_of(self.number, now);
        self.left.store(self.polls(), Ordering::Relaxed);
    }

    /// The polls of a turn beside neighbours: at least one, and fewer than otherwise when they are long.
    fn polls(&self) -> u64 {
        let usual = self.usual.load(Ordering::Relaxed).max(POLL);
        (self.rounds.shared * POLL / usual).max(1)
    }

    /// Takes the time of so many polls off what was spent; whether that covers it.
    fn pay(&self, polls: u64) -> bool {
        let granted = POLL.saturating_mul(polls);
        let before = self
            .spent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| {
                Some(spent.saturating_sub(granted))
            });
        before.is_ok_and(|spent| spent <= granted)
    }

    async fn turn(&self, place: &mut Option<Arc<Place>>) {
        let Some(place) = self.wait(place) else {
            return self.lead().await;
        };
        if poll_fn(|cx| place.poll_told(cx)).await == LEAD {
            self.lead().await;
        }
    }

    /// A place in the queue; `None` for who must lead.
    fn wait<'p>(&self, place: &'p mut Option<Arc<Place>>) -> Option<&'p Place> {
        let mut round = self.round.lock();
        if !round.is_led {
            round.is_led = true;
            return None;
        }
        let place = place.get_or_insert_default();
        place.told.store(NOTHING, Ordering::Relaxed);
        round.waiting.push_back(Arc::clone(place));
        Some(place)
    }

    /// Steps back until whatever else is ready has run, and begins the next round, the first turn of which is its own.
    async fn lead(&self) {
        loop {
            // tokio polls the sockets before it polls a task that yielded, and both only when its queue is empty.
            yield_now().await;
            let now = self.rounds.begun.fetch_add(1, Ordering::Relaxed) + 1;
            self.granted.store(now, Ordering::Relaxed);
            let is_shared = self.rounds.turn_of(self.number, now);
            if !is_shared {
                // Nobody is there whom long polls would hold up.
                self.spent.store(0, Ordering::Relaxed);
                return self.begin(ALONE);
            }
            if self.pay(self.rounds.shared) {
                return self.begin(self.polls());
            }
        }
    }

    fn begin(&self, polls: u64) {
        let mut left = polls - 1;
        let mut round = self.round.lock();
        while let Some(next) = round.waiting.pop_front() {
            if left == 0 {
                return next.tell(LEAD);
            }
            left -= 1;
            next.tell(TAKE);
        }
        round.is_led = false;
        self.left.store(left, Ordering::Relaxed);
    }
}

impl Place {
    fn poll_told(&self, cx: &mut Context<'_>) -> Poll<u8> {
        self.waker.register(cx.waker());
        match self.told.load(Ordering::Acquire) {
            NOTHING => Poll::Pending,
            told => Poll::Ready(told),
        }
    }

    fn tell(&self, what: u8) {
        self.told.store(what, Ordering::Release);
        self.waker.wake();
    }
}

/// When the poll began of which this is a part; `None` where no turns are taken.
pub fn poll_begun() -> Option<Instant> {
    BEGUN.get()
}

/// Does what is a part of a poll that began at `begun`.
pub(crate) fn in_poll_begun<T>(begun: Instant, part: impl FnOnce() -> T) -> T {
    let around = BEGUN.replace(Some(begun));
    let done = part();
    BEGUN.set(around);
    done
}

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Pending once: the poll after it was asked for by whoever the task waits for.
pub(super) async fn woken() {
    let mut is_first = true;
    poll_fn(|_| {
        if std::mem::take(&mut is_first) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// What a task that waits is told: nothing yet, that it is its turn, or that it is to begin the next round.
const NOTHING: u8 = 0;
const TAKE: u8 = 1;
const LEAD: u8 = 2;
/// Polls of a turn otherwise: each round costs a look at the sockets.
const ALONE: u64 = 32;
/// Rounds after which a group is no longer thought of that had no turn.
const LATELY: u64 = 1024;
/// Nanoseconds that a poll of a turn may take; longer ones are paid for with the next turns.
const POLL: u64 = 12_500;

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
