//! Which group runs where, and that no task is lost on the way.

use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio::task::yield_now;

use super::*;
use crate::lifecycle::{PATIENCE, Tasks};

const MILLISECOND: u64 = 1_000_000;

#[test]
fn a_group_is_heavy_from_a_quarter_of_a_thread_until_it_took_less_than_an_eighth() {
    let demand = Demand::new(Arc::default());
    // Polls of a tenth of a millisecond.
    let is_heavy = |now, taken| {
        for _ in 0..taken * 10 {
            demand.spend(now * MILLISECOND, MILLISECOND / 10);
        }
        demand.spend(now * MILLISECOND, 0);
        demand.is_heavy.load(Ordering::Relaxed)
    };
    // A burst that a quiet pod has, too: 4 ms of 20.
    assert!(!is_heavy(10, 4));
    assert!(!is_heavy(20, 0), "the first window ends");
    assert!(!is_heavy(39, 4), "what was taken in the first one is forgotten");
    assert!(!is_heavy(41, 0));
    // At once, before the window has ended.
    assert!(!is_heavy(42, 4));
    assert!(is_heavy(43, 1));
    // A second that is not calm.
    assert!(is_heavy(1_042, 125));
    assert!(is_heavy(1_043, 0));
    // One that is.
    assert!(is_heavy(2_042, 124), "it is not over");
    assert!(!is_heavy(2_043, 0));
}

#[test]
fn a_few_polls_that_the_kernel_interrupted_make_no_group_heavy() {
    let demand = Demand::new(Arc::default());
    for _ in 0..10 {
        demand.spend(19 * MILLISECOND, 3 * MILLISECOND);
    }
    assert!(!demand.is_heavy.load(Ordering::Relaxed));
    for _ in 0..10 {
        demand.spend(19 * MILLISECOND, 3 * MILLISECOND);
    }
    assert!(
        demand.is_heavy.load(Ordering::Relaxed),
        "long polls one after another do"
    );
}

#[test]
fn one_long_silence_ends_what_was_heavy() {
    let demand = Demand::new(Arc::default());
    demand.begin(MILLISECOND, true);
    assert!(demand.is_heavy.load(Ordering::Relaxed));
    demand.spend(60_000 * MILLISECOND, 1);
    assert!(!demand.is_heavy.load(Ordering::Relaxed));
}

fn runtime(name: &str) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .unwrap()
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

/// Two runtimes, and a group of tasks that is divided between them.
pub(in crate::lifecycle) struct Divided {
    pub(in crate::lifecycle) ordinary: Runtime,
    pub(in crate::lifecycle) bulk: Runtime,
    pub(in crate::lifecycle) group: Tasks,
}

impl Divided {
    pub(in crate::lifecycle) fn new() -> Self {
        let (ordinary, bulk) = (runtime("ordinary"), runtime("bulk"));
        let all = Tasks::new().divided(ordinary.handle().clone(), bulk.handle().clone());
        Self {
            group: all.fair_child(),
            ordinary,
            bulk,
        }
    }

    fn demand(&self) -> &Demand {
        &self.group.share().unwrap().demand
    }

    pub(in crate::lifecycle) fn set_heavy(&self, is_heavy: bool) {
        // The window begins anew as well: what the test itself takes must not count.
        self.demand().begin(
            nanoseconds(self.group.share().unwrap().lanes.since.elapsed()),
            is_heavy,
        );
    }

    pub(in crate::lifecycle) fn ended(self) {
        assert!(self.ordinary.block_on(self.group.joined(PATIENCE)));
        self.bulk.shutdown_timeout(PATIENCE);
        self.ordinary.shutdown_timeout(PATIENCE);
    }
}

#[test]
fn a_task_follows_its_group_there_and_back_and_hears_what_it_waited_for() {
    let divided = Divided::new();
    let asked = Arc::new(Notify::new());
    let (said, mut heard) = mpsc::unbounded_channel();
    let again = Arc::clone(&asked);
    let stop = divided.group.stop();
    divided.group.spawn("follows", async move {
        loop {
            tokio::select! {
                () = again.notified() => said.send(thread_name()).unwrap(),
                () = stop.requested() => break,
            }
        }
    });
    for (is_heavy, name) in [(false, "ordinary"), (true, "bulk"), (false, "ordinary")] {
        divided.set_heavy(is_heavy);
        // The poll that has just told may still be under way there, and hear the next question, too.
        let mut told = || {
            asked.notify_one();
            heard.blocking_recv().unwrap()
        };
        assert!((0..100).any(|_| told() == name), "{name}");
        assert_eq!(told(), name, "it stays there");
    }
    divided.group.request_stop();
    divided.ended();
}

#[test]
fn heavy_groups_are_counted_until_they_are_gone() {
    let all = Tasks::new();
    let on = runtime("both");
    let divided = all.divided(on.handle().clone(), on.handle().clone());
    let (storm, other) = (divided.fair_child(), divided.fair_child());
    for group in [&storm, &other] {
        for _ in 0..2 {
            group.share().unwrap().demand.begin(0, true);
        }
    }
    assert_eq!(all.heavy(), 2);
    other.share().unwrap().demand.begin(0, false);
    assert_eq!(all.heavy(), 1);
    drop(storm);
    assert_eq!(all.heavy(), 0);
}

#[test]
fn what_a_heavy_group_starts_runs_where_it_does() {
    let divided = Divided::new();
    divided.set_heavy(true);
    let (said, mut heard) = mpsc::unbounded_channel();
    divided.group.spawn(
        "of a heavy group",
        async move { said.send(thread_name()).unwrap() },
    );
    assert_eq!(heard.blocking_recv().as_deref(), Some("bulk"));
    divided.ended();
}

#[test]
fn a_neighbour_stays_where_it_is() {
    let divided = Divided::new();
    divided.set_heavy(true);
    let neighbour = Share::new(&divided.group.share().unwrap().lanes);
    assert_eq!(neighbour.lane(), Lane::Ordinary);
    divided.ended();
}

#[test]
fn a_group_that_computes_without_end_is_taken_from_the_ordinary_threads() {
    let divided = Divided::new();
    let (said, mut heard) = mpsc::unbounded_channel();
    let stop = divided.group.stop();
    divided.group.spawn("computes", async move {
        while thread_name() != "bulk" {
            let until = std::time::Instant::now() + Duration::from_micros(200);
            while std::time::Instant::now() < until {}
            yield_now().await;
        }
        said.send(()).unwrap();
        stop.requested().await;
    });
    assert_eq!(heard.blocking_recv(), Some(()));
    divided.group.request_stop();
    divided.ended();
}

#[test]
fn nobody_is_lost_while_a_group_goes_to_and_fro() {
    let divided = Divided::new();
    for _ in 0..200 {
        divided.group.spawn("restless", async {
            for _ in 0..200 {
                yield_now().await;
            }
        });
    }
    while divided.group.active() > 0 {
        for is_heavy in [true, false] {
            divided.set_heavy(is_heavy);
            thread::yield_now();
        }
    }
    divided.ended();
}

#[test]
fn a_panic_after_a_move_is_counted_as_before_it() {
    let divided = Divided::new();
    let go = Arc::new(Notify::new());
    let gone = Arc::clone(&go);
    divided.group.spawn("broken", async move {
        gone.notified().await;
        panic!("on purpose");
    });
    divided.set_heavy(true);
    go.notify_one();
    assert!(divided.ordinary.block_on(divided.group.joined(PATIENCE)));
    assert_eq!(divided.group.panics(), 1);
    divided.ended();
}
