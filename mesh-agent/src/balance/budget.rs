//! How many further attempts one destination may be asked for, so that retries cannot multiply an outage.
//!
//! Place in the walk: asked before a request is tried again. Must not know: requests, why they failed.
//!
//! Source: Gateway API's `retryConstraint` (20 % of the requests of the last 10 s, and never less than 10 each second),
//! which are the figures of Tower's `TpsBudget` and Linkerd too.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::mesh::traffic::RetryConstraint;

/// Requests and further attempts of one destination over the last interval, counted by all pods of the node.
#[derive(Debug, Default)]
pub struct RetryBudget {
    began: OnceLock<Instant>,
    slots: [Slot; SLOTS],
}

/// A tenth of the interval.
#[derive(Debug, Default)]
struct Slot {
    /// The tenth that it counts, and what: `tenth << 48 | requests << 24 | attempts`, each at its bound.
    packed: AtomicU64,
}

impl RetryBudget {
    /// Counts a request (not its further attempts).
    pub fn request(&self, limits: &RetryConstraint, now: Instant) {
        self.count(self.tenth(limits, now), 1, 0);
    }

    /// Whether one more attempt is granted; it is counted if so.
    ///
    /// Two callers at the same instant may both be granted the last one.
    pub fn withdraw(&self, limits: &RetryConstraint, now: Instant) -> bool {
        let tenth = self.tenth(limits, now);
        let (requests, attempts) = self.sums(tenth);
        let granted = floor(limits).saturating_add(requests * u64::from(limits.percent) / 100);
        let is_granted = attempts < granted;
        if is_granted {
            self.count(tenth, 0, 1);
        }
        is_granted
    }

    /// The current tenth of an interval, counted since the first one and round and round.
    fn tenth(&self, limits: &RetryConstraint, now: Instant) -> u64 {
        let began = *self.began.get_or_init(|| now);
        let elapsed = now.saturating_duration_since(began).as_micros();
        let width = (limits.interval.as_micros() / u128::from(TENTHS)).max(1);
        u64::try_from(elapsed / width % u128::from(TENTH_BOUND)).unwrap_or_default()
    }

    fn count(&self, tenth: u64, requests: u64, attempts: u64) {
        let place = usize::try_from(tenth).map(|tenth| tenth % SLOTS);
        let Some(slot) = place.ok().and_then(|place| self.slots.get(place)) else {
            return;
        };
        // Nothing else is published through the counters.
        let _counted = slot
            .packed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
                let (of, r, a) = unpack(packed);
                let (r, a) = if of == tenth { (r, a) } else { (0, 0) };
                Some(tenth << 48 | (r + requests).min(BOUND) << 24 | (a + attempts).min(BOUND))
            });
    }

    fn sums(&self, tenth: u64) -> (u64, u64) {
        let recent = |of: u64| tenth.wrapping_sub(of) < TENTHS;
        self.slots
            .iter()
            .map(|slot| unpack(slot.packed.load(Ordering::Relaxed)))
            .filter(|(of, ..)| recent(*of))
            .fold((0, 0), |(requests, attempts), (_, r, a)| {
                (requests + r, attempts + a)
            })
    }
}

/// Further attempts of an interval that are granted whatever there was of requests.
fn floor(limits: &RetryConstraint) -> u64 {
    let per = limits.min_interval.as_micros().max(1);
    let floor = u128::from(limits.min_count) * limits.interval.as_micros() / per;
    u64::try_from(floor).unwrap_or(u64::MAX)
}

fn unpack(packed: u64) -> (u64, u64, u64) {
    (packed >> 48, packed >> 24 & BOUND, packed & BOUND)
}

/// What is counted is forgotten after as many parts of the interval.
const TENTHS: u64 = 10;
/// One more than are summed, so that the one that is written is not the one that has just expired.
const SLOTS: usize = 11;
const BOUND: u64 = (1 << 24) - 1;
const TENTH_BOUND: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn without_floor() -> RetryConstraint {
        RetryConstraint {
            min_count: 0,
            ..RetryConstraint::default()
        }
    }

    fn granted(budget: &RetryBudget, limits: &RetryConstraint, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(limits, now)).count()
    }

    #[test]
    fn a_share_of_the_last_ten_seconds_is_granted_and_a_floor() {
        let (now, both) = (Instant::now(), RetryConstraint::default());
        assert_eq!(
            granted(&RetryBudget::default(), &both, now),
            100,
            "the floor alone"
        );
        let budget = RetryBudget::default();
        for _ in 0..1000 {
            budget.request(&both, now);
        }
        assert_eq!(granted(&budget, &without_floor(), now), 200);
        assert_eq!(granted(&budget, &both, now), 100, "the floor comes on top");
    }

    #[test]
    fn what_was_counted_is_forgotten_after_the_interval() {
        for seconds in [1, 10, 3600] {
            let interval = Duration::from_secs(seconds);
            let limits = RetryConstraint {
                interval,
                ..without_floor()
            };
            let (began, budget) = (Instant::now(), RetryBudget::default());
            for _ in 0..100 {
                budget.request(&limits, began);
            }
            assert_eq!(granted(&budget, &limits, began), 20);
            assert!(
                !budget.withdraw(&limits, began + interval.mul_f32(0.95)),
                "still used up"
            );
            let later = began + interval;
            assert!(!budget.withdraw(&limits, later), "no requests any more");
            for _ in 0..5 {
                budget.request(&limits, later);
            }
            assert_eq!(granted(&budget, &limits, later), 1);
        }
    }

    #[test]
    fn a_floor_below_one_an_interval_is_none() {
        let limits = RetryConstraint {
            min_count: 1,
            min_interval: Duration::from_hours(1),
            ..RetryConstraint::default()
        };
        assert_eq!(granted(&RetryBudget::default(), &limits, Instant::now()), 0);
    }

    #[test]
    fn a_slot_that_is_used_again_forgets_its_old_time() {
        let (began, limits) = (Instant::now(), without_floor());
        let budget = RetryBudget::default();
        for second in 0..100 {
            budget.request(&limits, began + Duration::from_secs(second));
        }
        let last = began + Duration::from_secs(99);
        let (requests, _) = budget.sums(budget.tenth(&limits, last));
        assert_eq!(requests, 10);
    }

    #[test]
    fn under_a_total_outage_there_are_a_fifth_more_attempts_than_requests() {
        let (began, limits) = (Instant::now(), without_floor());
        let budget = RetryBudget::default();
        let mut attempts = 0_u32;
        for request in 0..20_000_u64 {
            // A thousand a second, each of which would be tried three times more.
            let now = began + Duration::from_millis(request);
            budget.request(&limits, now);
            let further = (0..3).take_while(|_| budget.withdraw(&limits, now)).count();
            attempts += u32::try_from(further).unwrap();
        }
        assert!((3_900..=4_000).contains(&attempts), "{attempts}");
    }
}
