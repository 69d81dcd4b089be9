//! Label sets and their counters: found without a lock, never more than a fixed number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

/// A label set that knows where its samples go when there are too many others.
pub(super) trait SeriesLabels: Clone + Eq + Hash {
    /// The series that takes the samples of label sets for which there is no room. Few differ from each other.
    fn overflow(&self) -> Self;
}

/// The series of one group of metric families that share their labels.
///
/// Reading is one atomic load and one hash lookup. Only the first use of a label set takes the lock and copies
/// the index. A full table forgets what was not used for [`IDLE`]; if nothing was idle, samples go to the
/// overflow series, so that a storm of peers costs neither memory nor the scrape nor the data path.
/// A sample that reaches a series in the instant in which it is forgotten is lost.
#[derive(Debug)]
pub(super) struct SeriesTable<L, S> {
    index: ArcSwap<Index<L, S>>,
    writing: Mutex<()>,
    capacity: usize,
    origin: Instant,
    /// Until this second a full table does not look for idle series again.
    full_until_s: AtomicU64,
    overflowed: AtomicU64,
}

type Index<L, S> = HashMap<L, Arc<Series<S>>>;

/// The counters of one label set.
#[derive(Debug)]
pub(super) struct Series<S> {
    pub(super) counters: S,
    last_used_s: AtomicU64,
}

impl<L: SeriesLabels, S: Default> SeriesTable<L, S> {
    pub(super) fn new(capacity: usize, now: Instant) -> Self {
        Self {
            index: ArcSwap::from_pointee(Index::new()),
            writing: Mutex::new(()),
            capacity,
            origin: now,
            full_until_s: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }
    }

    /// The series of `labels`, made on first use, or the overflow series.
    ///
    /// A series that somebody holds is never forgotten.
    pub(super) fn series(&self, labels: &L, now: Instant) -> Arc<Series<S>> {
        let now_s = now.saturating_duration_since(self.origin).as_secs();
        let index = self.index.load();
        if let Some(series) = index.get(labels) {
            return used(series, now_s);
        }
        if now_s < self.full_until_s.load(Ordering::Relaxed)
            && let Some(series) = index.get(&labels.overflow())
        {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            return used(series, now_s);
        }
        drop(index);
        self.admit(labels, now_s)
    }

    /// Calls `visit` for every series, in no order.
    pub(super) fn for_each<E>(&self, mut visit: impl FnMut(&L, &S) -> Result<(), E>) -> Result<(), E> {
        self.index
            .load()
            .iter()
            .try_for_each(|(labels, series)| visit(labels, &series.counters))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.load().is_empty()
    }

    /// How many lookups found no room.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    fn admit(&self, labels: &L, now_s: u64) -> Arc<Series<S>> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.index.load_full();
        if let Some(series) = current.get(labels) {
            return used(series, now_s);
        }
        let mut next = Index::clone(&current);
        drop(current);
        let mut labels = labels.clone();
        if next.len() >= self.capacity {
            // Held by this copy and by the published index: a third owner is a live connection.
            next.retain(|_, series| Arc::strong_count(series) > 2 || !is_idle(series, now_s));
        }
        if next.len() >= self.capacity {
            self.full_until_s
                .store(now_s.saturating_add(SWEEP.as_secs()), Ordering::Relaxed);
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            labels = labels.overflow();
            if let Some(series) = next.get(&labels) {
                return used(series, now_s);
            }
        }
        let series = Arc::new(Series {
            counters: S::default(),
            last_used_s: AtomicU64::new(now_s),
        });
        next.insert(labels, Arc::clone(&series));
        self.index.store(Arc::new(next));
        series
    }
}

fn used<S>(series: &Arc<Series<S>>, now_s: u64) -> Arc<Series<S>> {
    series.last_used_s.store(now_s, Ordering::Relaxed);
    Arc::clone(series)
}

fn is_idle<S>(series: &Series<S>, now_s: u64) -> bool {
    now_s.saturating_sub(series.last_used_s.load(Ordering::Relaxed)) >= IDLE.as_secs()
}

/// After this long without a sample a series may make room for another; linkerd's time.
const IDLE: Duration = Duration::from_mins(10);

/// How often a full table looks for idle series.
const SWEEP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    enum Peer {
        Number(u32),
        Overflow,
    }

    impl SeriesLabels for Peer {
        fn overflow(&self) -> Self {
            Self::Overflow
        }
    }

    type Table = SeriesTable<Peer, AtomicU64>;

    fn labels(table: &Table) -> Vec<Peer> {
        table.index.load().keys().cloned().collect()
    }

    #[test]
    fn the_same_labels_find_the_same_series() {
        let now = Instant::now();
        let table = Table::new(2, now);
        assert!(Arc::ptr_eq(
            &table.series(&Peer::Number(1), now),
            &table.series(&Peer::Number(1), now)
        ));
    }

    #[test]
    fn a_storm_of_labels_ends_in_one_overflow_series() {
        let now = Instant::now();
        let table = Table::new(10, now);
        for number in 0..1_000 {
            table
                .series(&Peer::Number(number), now)
                .counters
                .fetch_add(1, Ordering::Relaxed);
        }
        let mut total = 0;
        table
            .for_each(|_, counter| {
                total += counter.load(Ordering::Relaxed);
                Ok::<(), ()>(())
            })
            .unwrap();
        assert_eq!(
            (labels(&table).len(), total, table.overflowed()),
            (11, 1_000, 990)
        );
    }

    #[test]
    fn a_full_table_forgets_what_is_idle_but_not_what_is_held() {
        let start = Instant::now();
        let table = Table::new(3, start);
        let _held = table.series(&Peer::Number(0), start);
        table.series(&Peer::Number(1), start);
        let later = start + IDLE;
        table.series(&Peer::Number(2), later);
        table.series(&Peer::Number(3), later);

        let mut left = labels(&table);
        left.sort_by_key(|peer| format!("{peer:?}"));
        assert_eq!(left, [Peer::Number(0), Peer::Number(2), Peer::Number(3)]);
    }

    #[test]
    fn a_full_table_makes_room_when_series_have_become_idle() {
        let start = Instant::now();
        let table = Table::new(1, start);
        table.series(&Peer::Number(0), start);
        table.series(&Peer::Number(1), start);
        assert!(labels(&table).contains(&Peer::Overflow));

        table.series(&Peer::Number(2), start + IDLE);
        assert_eq!(labels(&table), [Peer::Number(2)]);
    }

    #[test]
    fn threads_that_meet_on_new_labels_lose_no_count() {
        let now = Instant::now();
        let table = Table::new(100, now);
        let count_all = || {
            for number in 0..50 {
                table
                    .series(&Peer::Number(number), now)
                    .counters
                    .fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(count_all);
            }
        });
        table
            .for_each(|peer, counter| match counter.load(Ordering::Relaxed) {
                4 => Ok(()),
                other => Err(format!("{peer:?}: {other}")),
            })
            .unwrap();
    }
}
