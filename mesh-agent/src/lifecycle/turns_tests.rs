//! What groups of tasks have of each other when all of them want to run.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;

const SHARED: u64 = 2;

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

/// Runs `task`, each poll of it in its turn.
async fn run<T>(turns: &Turns, task: impl Future<Output = T>) -> T {
    let mut task = pin!(task);
    let mut place = None;
    loop {
        turns.mine(&mut place).await;
        let begun = Instant::now();
        let polled = poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx))).await;
        turns.spend(u64::try_from(begun.elapsed().as_nanos()).unwrap());
        if let Poll::Ready(done) = polled {
            return done;
        }
        woken().await;
    }
}

/// Answers for ever.
async fn echo(turns: Arc<Turns>, there: Arc<Notify>, back: Arc<Notify>) {
    loop {
        run(&turns, there.notified()).await;
        back.notify_one();
    }
}

fn groups<const N: usize>() -> [Arc<Turns>; N] {
    let rounds = Arc::new(Rounds::of_turns(SHARED));
    std::array::from_fn(|_| Arc::new(Turns::new(&rounds)))
}

async fn yields(times: usize) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// On a clock that stands still: what else the machine does makes no poll longer.
#[tokio::test(start_paused = true)]
async fn a_quiet_group_waits_for_one_round_of_a_busy_one() {
    let [storm, quiet] = groups();
    let (polls, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for _ in 0..1000 {
        let (storm, polls, stop) = (Arc::clone(&storm), Arc::clone(&polls), Arc::clone(&stop));
        tasks.spawn(async move { run(&storm, busy(polls, stop)).await });
    }
    let (there, back) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut echoes = JoinSet::new();
    echoes.spawn(echo(Arc::clone(&quiet), Arc::clone(&there), Arc::clone(&back)));
    yield_now().await;
    let mut most = 0;
    for asked in 0..500 {
        let before = polls.load(Ordering::Relaxed);
        there.notify_one();
        run(&quiet, back.notified()).await;
        // That it is not alone any more the storm learns by the first time.
        if asked > 0 {
            most = most.max(polls.load(Ordering::Relaxed) - before);
        }
    }
    // There and back, each of which may find a round that has just begun.
    assert!(
        most <= 3 * usize::try_from(SHARED).unwrap(),
        "{most} polls of the storm"
    );
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    echoes.shutdown().await;
}

#[test]
fn a_quiet_group_has_another_turn_once_others_had_one() {
    let [storm, quiet] = groups();
    let mut of_quiet = 0;
    while quiet.take() {
        of_quiet += 1;
    }
    assert_eq!(of_quiet, SHARED);
    storm.rounds.begun.fetch_add(1, Ordering::Relaxed);
    assert!(quiet.take(), "it need not wait for the end of a round");
}

#[tokio::test]
async fn time_beyond_that_of_a_turn_is_paid_for_with_the_next_ones() {
    let [storm, quiet] = groups();
    quiet.rounds.turn_of(quiet.number, 0);
    while storm.take() {}
    storm.spend(10 * SHARED * POLL);
    let before = storm.rounds.begun.load(Ordering::Relaxed);
    run(&storm, async {}).await;
    assert_eq!(storm.rounds.begun.load(Ordering::Relaxed) - before, 10);
}

#[test]
fn the_longer_polls_are_the_fewer_has_a_turn() {
    let [turns] = groups();
    assert_eq!(turns.polls(), SHARED);
    for (nanoseconds, polls) in [(2 * POLL, SHARED / 2), (100 * POLL, 1), (POLL / 2, SHARED)] {
        for _ in 0..100 {
            turns.spend(nanoseconds);
        }
        assert_eq!(turns.polls(), polls, "{nanoseconds} ns");
    }
}

#[test]
fn a_turn_is_short_only_while_another_group_has_turns() {
    let [storm, quiet] = groups();
    assert!(
        storm.rounds.turn_of(storm.number, 5),
        "it was alone for five rounds only"
    );
    assert!(!storm.rounds.turn_of(storm.number, LATELY + 5));
    quiet.rounds.turn_of(quiet.number, LATELY + 6);
    assert!(storm.rounds.turn_of(storm.number, LATELY + 7));
    assert!(!storm.rounds.turn_of(storm.number, 3 * LATELY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_forgotten_whoever_leads() {
    let turns: [_; 3] = groups();
    let mut tasks = JoinSet::new();
    for task in 0..300_usize {
        let mine = Arc::clone(&turns[task % turns.len()]);
        tasks.spawn(async move {
            run(&mine, yields(200)).await;
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
    let [turns] = groups();
    let sum = run(&turns, async {
        let mut sum = 0;
        for count in 0..10 * ALONE {
            yield_now().await;
            sum += count;
        }
        sum
    });
    assert_eq!(sum.await, (0..10 * ALONE).sum::<u64>());
}
