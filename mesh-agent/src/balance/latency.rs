//! How long the endpoints of one upstream took to answer of late, as a whole: what a slow answer is.
//!
//! Place in the walk: written when an answer begins, read when a request is sent that may be hedged. Must not know: which
//! requests those are.
//!
//! Counts in buckets that are an eighth of an octave wide, so that a percentile is at most a tenth too long; all are
//! halved at times, so that what was long ago fades. All pods of the node share it, and it survives a new snapshot.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Answers by how long they took.
#[derive(Debug)]
pub struct Latency {
    began: OnceLock<Instant>,
    /// How many half-lives the counts have been through.
    halvings: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            began: OnceLock::new(),
            halvings: AtomicU64::new(0),
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
        }
    }
}

impl Latency {
    /// An answer took `took`.
    pub fn saw(&self, took: Duration, now: Instant) {
        self.fade(now);
        if let Some(bucket) = self.buckets.get(bucket_of(took)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The time within which `percent` of a hundred answers of late came; `None` when fewer than `least` are known.
    pub fn percentile(&self, percent: u32, least: u32, now: Instant) -> Option<Duration> {
        self.fade(now);
        let all = self.known();
        if all < u64::from(least) {
            return None;
        }
        let wanted = (all * u64::from(percent)).div_ceil(100);
        let mut below = 0;
        let place = self.buckets.iter().position(|bucket| {
            below += u64::from(bucket.load(Ordering::Relaxed));
            below >= wanted
        });
        Some(end_of(place.unwrap_or(BUCKETS - 1)))
    }

    /// Answers of late, older ones counted for less.
    pub fn known(&self) -> u64 {
        let counts = self.buckets.iter();
        counts
            .map(|bucket| u64::from(bucket.load(Ordering::Relaxed)))
            .sum()
    }

    /// Halves the counts as often as a half-life has passed. Of several callers one does it; what the others count
    /// meanwhile may be halved once too often, which nobody will notice.
    fn fade(&self, now: Instant) {
        let began = *self.began.get_or_init(|| now);
        let due = now.saturating_duration_since(began).as_secs() / HALF_LIFE_S;
        let done = self.halvings.fetch_max(due, Ordering::Relaxed);
        let missing = u32::try_from(due.saturating_sub(done)).unwrap_or(u32::MAX);
        if missing == 0 {
            return;
        }
        for bucket in &self.buckets {
            let halved = |count: u32| Some(count.checked_shr(missing).unwrap_or(0));
            // The closure always gives a value, so that the update cannot fail.
            let _before = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halved);
        }
    }
}

/// Octave and eighth of it; the first and the last bucket hold all that is shorter or longer.
fn bucket_of(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let Some(octave) = micros
        .checked_ilog2()
        .and_then(|octave| octave.checked_sub(LEAST_OCTAVE))
    else {
        return 0;
    };
    let eighth = (micros >> (octave + LEAST_OCTAVE - 3)) & 7;
    let place = u64::from(octave) * 8 + eighth;
    usize::try_from(place).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// What is shorter than this is in the bucket or before it.
fn end_of(bucket: usize) -> Duration {
    let next = u64::try_from(bucket).unwrap_or(u64::MAX) + 1;
    let octave_begins = 1_u64 << (next / 8 + u64::from(LEAST_OCTAVE)).min(62);
    Duration::from_micros(octave_begins + octave_begins / 8 * (next % 8))
}

/// 64 µs: what is faster is of no interest.
const LEAST_OCTAVE: u32 = 6;
/// Up to 67 s.
const BUCKETS: usize = 20 * 8;
const HALF_LIFE_S: u64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn every_time_is_within_its_bucket_and_no_bucket_is_wider_than_an_eighth() {
        for micros in (64..5_000_000).step_by(97) {
            let took = Duration::from_micros(micros);
            let bucket = bucket_of(took);
            let end = end_of(bucket);
            assert!(took < end && end <= took.mul_f64(1.126), "{took:?} {end:?}");
            assert!(bucket == 0 || end_of(bucket - 1) <= took, "{took:?}");
        }
        for (took, bucket) in [
            (Duration::ZERO, 0),
            (Duration::from_micros(63), 0),
            (Duration::from_mins(10), BUCKETS - 1),
            (Duration::MAX, BUCKETS - 1),
        ] {
            assert_eq!(bucket_of(took), bucket, "{took:?}");
        }
    }

    #[test]
    fn a_percentile_is_no_shorter_than_that_part_of_the_answers() {
        let (latency, now) = (Latency::default(), Instant::now());
        for millis in 1..=1000 {
            latency.saw(ms(millis), now);
        }
        for percent in [50, 90, 95, 99] {
            let found = latency.percentile(percent, 10, now).unwrap();
            let exact = ms(u64::from(percent) * 10);
            assert!(
                found >= exact && found <= exact.mul_f64(1.13),
                "{percent}: {found:?}"
            );
        }
    }

    #[test]
    fn nothing_is_said_before_enough_is_known() {
        let (latency, now) = (Latency::default(), Instant::now());
        for known in 0..100 {
            assert_eq!(latency.percentile(95, 100, now), None, "{known}");
            latency.saw(ms(10), now);
        }
        assert!(latency.percentile(95, 100, now).is_some());
    }

    #[test]
    fn what_was_long_ago_fades() {
        let (latency, began) = (Latency::default(), Instant::now());
        for _ in 0..1000 {
            latency.saw(ms(500), began);
        }
        let half_life = Duration::from_secs(HALF_LIFE_S);
        let later = began + half_life * 3;
        assert!(latency.percentile(50, 125, later).is_some());
        assert_eq!(latency.known(), 125);
        // What is new outweighs what is old and more.
        for _ in 0..200 {
            latency.saw(ms(5), later);
        }
        assert!(latency.percentile(50, 10, later).unwrap() < ms(6));
        assert_eq!(latency.percentile(50, 1, later + half_life * 100), None);
    }
}
