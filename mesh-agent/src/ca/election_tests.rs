//! Elections among candidates that share an API which may be away for some of them, on a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::time::sleep;

use super::*;
use crate::lifecycle::Tasks;

/// One lease, as the API server keeps it.
#[derive(Debug, Default)]
struct Store(Mutex<Option<(LeaseRecord, u64)>>);

/// A candidate's way to it.
#[derive(Debug, Clone)]
struct Way {
    store: Arc<Store>,
    is_cut: Arc<AtomicBool>,
    /// Answers nothing at all, rather than an error.
    is_silent: Arc<AtomicBool>,
}

impl Way {
    fn to(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
            is_cut: Arc::default(),
            is_silent: Arc::default(),
        }
    }

    async fn open(&self) -> Result<(), ApiError> {
        if self.is_silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.is_cut.load(Ordering::Relaxed) {
            return Err(ApiError::Silent(Duration::from_secs(5)));
        }
        Ok(())
    }
}

impl LeaseApi for Way {
    fn read(&self) -> BoxFuture<'_, Result<Option<StoredLease>, ApiError>> {
        Box::pin(async move {
            self.open().await?;
            let found = self.store.0.lock().clone();
            Ok(found.map(|(record, version)| StoredLease {
                record,
                version: Some(version.to_string()),
            }))
        })
    }

    fn write(&self, record: LeaseRecord, version: Option<String>) -> BoxFuture<'_, Result<bool, ApiError>> {
        Box::pin(async move {
            self.open().await?;
            let mut kept = self.store.0.lock();
            let now = kept.as_ref().map(|(_, version)| *version);
            if version != now.map(|version| version.to_string()) {
                return Ok(false);
            }
            *kept = Some((record, now.unwrap_or_default() + 1));
            Ok(true)
        })
    }
}

struct Running {
    way: Way,
    leadership: Leadership,
    tasks: Tasks,
}

fn terms() -> Terms {
    let seconds = Duration::from_secs;
    Terms::new(seconds(15), seconds(10), seconds(2)).unwrap()
}

fn start(store: &Arc<Store>, identity: &str) -> Running {
    let (way, tasks) = (Way::to(store), Tasks::new());
    let (candidate, leadership) = Candidate::new(way.clone(), identity.to_owned(), terms());
    tasks.spawn("candidate", candidate.run(tasks.stop()));
    Running {
        way,
        leadership,
        tasks,
    }
}

/// Lets time pass in small steps until `holds`, and returns how much; never do two lead at once.
async fn until(candidates: &[&Running], holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        sleep(Duration::from_millis(50)).await;
        let leaders = candidates.iter().filter(|one| one.leadership.holds()).count();
        assert!(leaders <= 1, "{leaders} lead at once");
        assert!(begun.elapsed() < Duration::from_mins(5), "it does not come");
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_and_stays() {
    let store = Arc::default();
    let (a, b) = (start(&store, "a"), start(&store, "b"));
    until(&[&a, &b], || a.leadership.holds() || b.leadership.holds()).await;
    let was_a = a.leadership.holds();
    let begun = Instant::now();
    until(&[&a, &b], || begun.elapsed() > Duration::from_mins(2)).await;
    assert_eq!(
        (a.leadership.holds(), b.leadership.holds()),
        (was_a, !was_a),
        "the lease changed hands for nothing"
    );
    assert_eq!(store.0.lock().as_ref().unwrap().0.transitions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_gives_the_lease_back_and_another_takes_it_soon() {
    let store = Arc::default();
    let a = start(&store, "a");
    until(&[&a], || a.leadership.holds()).await;
    let b = start(&store, "b");
    sleep(Duration::from_secs(5)).await;
    a.tasks.request_stop();
    let taken = until(&[&a, &b], || b.leadership.holds()).await;
    // A pause between two tries with its jitter.
    assert!(taken < Duration::from_secs(3), "{taken:?}");
    assert_eq!(store.0.lock().as_ref().unwrap().0.transitions, 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_steps_down_before_another_takes_the_lease() {
    for is_silent in [false, true] {
        let store = Arc::default();
        let a = start(&store, "a");
        until(&[&a], || a.leadership.holds()).await;
        let b = start(&store, "b");
        sleep(Duration::from_secs(5)).await;
        let cut = if is_silent {
            &a.way.is_silent
        } else {
            &a.way.is_cut
        };
        cut.store(true, Ordering::Relaxed);
        let stepped_down = until(&[&a, &b], || !a.leadership.holds()).await;
        assert!(stepped_down <= Duration::from_secs(11), "{stepped_down:?}");
        assert!(!b.leadership.holds());
        until(&[&a, &b], || b.leadership.holds()).await;
        // Back again, it is one who waits.
        cut.store(false, Ordering::Relaxed);
        let begun = Instant::now();
        until(&[&a, &b], || begun.elapsed() > Duration::from_secs(30)).await;
        assert!(b.leadership.holds() && !a.leadership.holds());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_somebody_who_is_gone_is_taken_after_its_whole_duration_whatever_its_times_say() {
    // Clocks that are far behind, far ahead, and absent; a lease that does not say how long lasts as long as one's own.
    let ahead = SystemTime::now() + Duration::from_hours(1000);
    let seconds = Duration::from_secs;
    for (renewed, duration, lasts) in [
        (Some(SystemTime::UNIX_EPOCH), Some(seconds(20)), seconds(20)),
        (Some(ahead), Some(seconds(20)), seconds(20)),
        (None, Some(seconds(20)), seconds(20)),
        (None, None, seconds(15)),
    ] {
        let store: Arc<Store> = Arc::default();
        *store.0.lock() = Some((
            LeaseRecord {
                holder: "gone".to_owned(),
                duration,
                renewed,
                ..LeaseRecord::default()
            },
            7,
        ));
        let a = start(&store, "a");
        let taken = until(&[&a], || a.leadership.holds()).await;
        assert!(taken >= lasts, "{taken:?}");
        assert!(taken < lasts + seconds(5), "{taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_own_lease_that_somebody_touched_is_kept_and_one_that_was_taken_is_given_up() {
    let store: Arc<Store> = Arc::default();
    let a = start(&store, "a");
    until(&[&a], || a.leadership.holds()).await;
    store.0.lock().as_mut().unwrap().1 += 1;
    let begun = Instant::now();
    until(&[&a], || begun.elapsed() > Duration::from_secs(20)).await;
    assert!(a.leadership.holds());

    store.0.lock().as_mut().unwrap().0.holder = "b".to_owned();
    let given_up = until(&[&a], || !a.leadership.holds()).await;
    assert!(given_up < Duration::from_secs(3), "{given_up:?}");
}

#[test]
fn times_that_contradict_one_another_are_no_terms() {
    let of = |lease, deadline, retry| {
        let seconds = Duration::from_secs;
        Terms::new(seconds(lease), seconds(deadline), seconds(retry)).is_ok()
    };
    assert!(of(15, 10, 2));
    assert!(!of(10, 10, 2), "others may take it while the leader still acts");
    assert!(!of(15, 2, 2), "no renewal would come in time");
    assert!(!of(15, 10, 0), "it would ask without a pause");
}
