//! When the keys of one source are fetched. Pure.

use std::time::{Duration, Instant};

/// The fetches of one source.
#[derive(Debug)]
pub(super) struct Schedule {
    /// When the next one begins, unless one is under way.
    due: Instant,
    began: Option<Instant>,
    is_under_way: bool,
    failures: u32,
}

impl Schedule {
    /// Due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now,
            began: None,
            is_under_way: false,
            failures: 0,
        }
    }

    /// When there is something to do; `None` while a fetch is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_under_way).then_some(self.due)
    }

    pub(super) fn begins(&mut self, now: Instant) {
        self.is_under_way = true;
        self.began = Some(now);
    }

    /// A token asked for a key that is not here. Tokens are anybody's to send, so what they cause is rationed.
    pub(super) fn missed(&mut self, now: Instant) {
        let earliest = self.began.map_or(now, |began| began + MISS_PAUSE);
        self.due = self.due.min(earliest.max(now));
    }

    /// `jitter` from 0 to 1 spreads the agents of a cluster.
    pub(super) fn succeeded(&mut self, now: Instant, jitter: f64) {
        self.is_under_way = false;
        self.failures = 0;
        self.due = now + REFRESH.mul_f64(1.0 - 0.1 * jitter.clamp(0.0, 1.0));
    }

    /// Tried again after a pause that doubles from one second to one minute, and up to half of it taken off.
    pub(super) fn failed(&mut self, now: Instant, jitter: f64) {
        self.is_under_way = false;
        self.failures = self.failures.saturating_add(1);
        let doublings = (self.failures - 1).min(MAX_DOUBLINGS);
        let full = FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY);
        self.due = now + full.mul_f64(1.0 - 0.5 * jitter.clamp(0.0, 1.0));
    }
}

/// Istio's `PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`.
const REFRESH: Duration = Duration::from_mins(20);
/// Between two fetches that tokens cause.
const MISS_PAUSE: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);
const MAX_DOUBLINGS: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn after(schedule: &Schedule, start: Instant) -> u64 {
        schedule.due().unwrap().duration_since(start).as_secs()
    }

    #[test]
    fn keys_are_fetched_at_once_then_every_twenty_minutes() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(after(&schedule, start), 0);
        schedule.begins(start);
        assert_eq!(schedule.due(), None);
        schedule.succeeded(start, 0.0);
        assert_eq!(after(&schedule, start), 20 * 60);
        schedule.succeeded(start, 1.0);
        assert_eq!(after(&schedule, start), 18 * 60);
    }

    #[test]
    fn failures_are_tried_again_with_a_growing_pause() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let pauses: Vec<u64> = (0..9)
            .map(|_| {
                schedule.failed(start, 0.0);
                after(&schedule, start)
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        schedule.succeeded(start, 0.0);
        schedule.failed(start, 0.0);
        assert_eq!(after(&schedule, start), 1);
    }

    #[test]
    fn tokens_hasten_a_fetch_and_cannot_cause_a_storm() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        schedule.begins(start);
        schedule.succeeded(start, 0.0);
        schedule.missed(start + Duration::from_secs(1));
        assert_eq!(after(&schedule, start), 5);
        schedule.missed(start + Duration::from_secs(2));
        assert_eq!(after(&schedule, start), 5);
        let later = start + Duration::from_secs(100);
        schedule.begins(start + Duration::from_secs(95));
        schedule.succeeded(later, 0.0);
        schedule.missed(later);
        assert_eq!(
            after(&schedule, start),
            100,
            "at once when the last one is long over"
        );
    }
}
