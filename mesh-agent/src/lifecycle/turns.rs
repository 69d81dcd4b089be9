//! A fair share of a runtime's threads for each group of tasks, however many of them want to run.
//!
//! Place in the walk: below [`Tasks`](super::Tasks); each pod's tasks are such a group. Must not know: what any task does.
//!
//! tokio runs what is ready in the order in which it became ready: a thousand busy connections of one pod would all run
//! before the one of its neighbour. So a group has [`QUANTUM`] polls, and gets the next only after everything else that
//! was ready, of any group, had its turn, and after the sockets were asked for what is new. Among groups that want more
//! than they get that is a round robin (deficit round robin, Shreedhar and Varghese 1995, with polls as its unit).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::yield_now;

/// The polls of one group of tasks.
#[derive(Debug)]
pub(super) struct Turns {
    /// Polls that need nobody's leave.
    left: AtomicUsize,
    round: Mutex<Round>,
}

/// What happens once none is left.
#[derive(Debug, Default)]
struct Round {
    /// One task has stepped back behind all others, and begins the next round when it is polled again.
    is_led: bool,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// What a task that waited is told.
#[derive(Debug)]
enum Turn {
    /// It is its turn.
    Take,
    /// It is to begin the next round.
    Lead,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            left: AtomicUsize::new(QUANTUM),
            round: Mutex::default(),
        }
    }

    /// Runs `task`, each poll of it in its turn.
    pub(super) async fn run<T>(&self, task: impl Future<Output = T>) -> T {
        let mut task = pin!(task);
        loop {
            self.turn().await;
            if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx))).await {
                return done;
            }
            woken().await;
        }
    }

    async fn turn(&self) {
        if self.take() {
            return;
        }
        let Some(waiting) = self.wait() else {
            return self.lead().await;
        };
        match waiting.await {
            Ok(Turn::Lead) => self.lead().await,
            // A group that is gone, which its tasks outlive at no time, would hold nobody up.
            Ok(Turn::Take) | Err(_) => {}
        }
    }

    fn take(&self) -> bool {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.is_ok()
    }

    /// A place in the queue; `None` for who must lead.
    fn wait(&self) -> Option<oneshot::Receiver<Turn>> {
        let mut round = self.round.lock();
        if !round.is_led {
            round.is_led = true;
            return None;
        }
        let (told, waiting) = oneshot::channel();
        round.waiting.push_back(told);
        Some(waiting)
    }

    /// Steps back until whatever else is ready has run, and begins the next round, the first turn of which is its own.
    async fn lead(&self) {
        // tokio polls the sockets before it polls a task that yielded, and both only when its queue is empty.
        yield_now().await;
        let mut round = self.round.lock();
        let mut left = QUANTUM - 1;
        while let Some(next) = round.waiting.pop_front() {
            if left == 0 {
                // It cannot have ended: it waits.
                drop(next.send(Turn::Lead));
                return;
            }
            left -= 1;
            drop(next.send(Turn::Take));
        }
        round.is_led = false;
        self.left.store(left, Ordering::Relaxed);
    }
}

/// Pending once: the poll after it was asked for by whoever the task waits for.
async fn woken() {
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

/// Polls of a group in one round: with 8 a small request cost 10 % more, and a neighbour waited as long (docs/benchmarks.md).
const QUANTUM: usize = 32;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    use super::*;

    /// Wakes itself at once, as a connection does whose peer never stops.
    async fn busy(polls: Arc<AtomicUsize>, stop: Arc<AtomicBool>) {
        poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            if stop.load(Ordering::Relaxed) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Answers for ever.
    async fn echo(turns: Arc<Turns>, there: Arc<Notify>, back: Arc<Notify>) {
        loop {
            turns.run(there.notified()).await;
            back.notify_one();
        }
    }

    async fn yields(times: usize) {
        for _ in 0..times {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_quiet_group_waits_for_one_round_of_a_busy_one() {
        let (storm, quiet) = (Arc::new(Turns::new()), Arc::new(Turns::new()));
        let (polls, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for _ in 0..1000 {
            let (storm, polls, stop) = (Arc::clone(&storm), Arc::clone(&polls), Arc::clone(&stop));
            tasks.spawn(async move { storm.run(busy(polls, stop)).await });
        }
        let (there, back) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut echoes = JoinSet::new();
        echoes.spawn(echo(Arc::clone(&quiet), Arc::clone(&there), Arc::clone(&back)));
        yield_now().await;
        let mut most = 0;
        for _ in 0..500 {
            let before = polls.load(Ordering::Relaxed);
            there.notify_one();
            quiet.run(back.notified()).await;
            most = most.max(polls.load(Ordering::Relaxed) - before);
        }
        // There and back, each of which may find a round that has just begun.
        assert!(most <= 3 * QUANTUM, "{most} polls of the storm");
        stop.store(true, Ordering::Relaxed);
        tasks.join_all().await;
        echoes.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_forgotten_whoever_leads() {
        let turns: Vec<_> = (0..3).map(|_| Arc::new(Turns::new())).collect();
        let mut tasks = JoinSet::new();
        for task in 0..300_usize {
            let mine = Arc::clone(&turns[task % turns.len()]);
            tasks.spawn(async move {
                mine.run(yields(200)).await;
                task
            });
        }
        let mut done = tasks.join_all().await;
        done.sort_unstable();
        assert_eq!(done, (0..300).collect::<Vec<_>>());
        for turns in turns {
            assert!(turns.round.lock().waiting.is_empty());
        }
    }

    #[tokio::test]
    async fn a_task_that_is_alone_goes_on() {
        let turns = Turns::new();
        let sum = turns.run(async {
            let mut sum = 0;
            for count in 0..10 * QUANTUM {
                yield_now().await;
                sum += count;
            }
            sum
        });
        assert_eq!(sum.await, (0..10 * QUANTUM).sum::<usize>());
    }
}
