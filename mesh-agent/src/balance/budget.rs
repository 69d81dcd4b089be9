//! How many further attempts one destination may be asked for, so that retries cannot multiply an outage.
//!
//! Place in the walk: asked before a request is tried again. Must not know: requests, why they failed.
//!
//! Source: Gateway API's `retryConstraint` (20 % of the requests of the last 10 s, and never less than 10 each second),
//! which are the figures of Tower's `TpsBudget` and Linkerd too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Requests and further attempts of one destination over the last seconds, counted by all pods of the node.
#[derive(Debug)]
pub struct RetryBudget {
    began: Instant,
    slots: [Slot; SLOTS],
}

/// One second.
#[derive(Debug, Default)]
struct Slot {
    /// The second that it counts, and what: `second << 48 | requests << 24 | attempts`, each at its bound.
    packed: AtomicU64,
}

/// The share and the floor of further attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Of the requests, in percent.
    pub percent: u32,
    /// Further attempts each second that are always granted.
    pub min_each_second: u32,
}

impl Default for BudgetLimits {
    /// Gateway API's.
    fn default() -> Self {
        Self {
            percent: 20,
            min_each_second: 10,
        }
    }
}

impl RetryBudget {
    /// Nothing was counted yet.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            slots: Default::default(),
        }
    }

    /// Counts a request (not its further attempts).
    pub fn request(&self, now: Instant) {
        self.count(now, 1, 0);
    }

    /// Whether one more attempt is granted; it is counted if so.
    ///
    /// Two callers at the same instant may both be granted the last one.
    pub fn withdraw(&self, limits: BudgetLimits, now: Instant) -> bool {
        let (requests, attempts) = self.sums(now);
        let floor = u64::from(limits.min_each_second) * SECONDS;
        let granted = floor + requests * u64::from(limits.percent) / 100;
        let is_granted = attempts < granted;
        if is_granted {
            self.count(now, 0, 1);
        }
        is_granted
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() % SECOND_BOUND
    }

    fn count(&self, now: Instant, requests: u64, attempts: u64) {
        let second = self.second(now);
        let Some(slot) = usize::try_from(second)
            .ok()
            .and_then(|s| self.slots.get(s % SLOTS))
        else {
            return;
        };
        // Nothing else is published through the counters.
        let _counted = slot
            .packed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
                let (of, r, a) = unpack(packed);
                let (r, a) = if of == second { (r, a) } else { (0, 0) };
                Some(second << 48 | (r + requests).min(BOUND) << 24 | (a + attempts).min(BOUND))
            });
    }

    fn sums(&self, now: Instant) -> (u64, u64) {
        let second = self.second(now);
        let recent = |of: u64| second.wrapping_sub(of) < SECONDS;
        self.slots
            .iter()
            .map(|slot| unpack(slot.packed.load(Ordering::Relaxed)))
            .filter(|(of, ..)| recent(*of))
            .fold((0, 0), |(requests, attempts), (_, r, a)| {
                (requests + r, attempts + a)
            })
    }
}

fn unpack(packed: u64) -> (u64, u64, u64) {
    (packed >> 48, packed >> 24 & BOUND, packed & BOUND)
}

/// What is counted is forgotten after as many seconds.
const SECONDS: u64 = 10;
/// One more than are summed, so that the one that is written is not the one that has just expired.
const SLOTS: usize = 11;
const BOUND: u64 = (1 << 24) - 1;
const SECOND_BOUND: u64 = 1 << 16;

/// How long a request counts.
pub const WINDOW: Duration = Duration::from_secs(SECONDS);

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: BudgetLimits = BudgetLimits {
        percent: 20,
        min_each_second: 0,
    };

    fn granted(budget: &RetryBudget, limits: BudgetLimits, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(limits, now)).count()
    }

    #[test]
    fn a_share_of_the_last_ten_seconds_is_granted_and_a_floor() {
        let now = Instant::now();
        let budget = RetryBudget::new(now);
        assert_eq!(
            granted(&budget, BudgetLimits::default(), now),
            100,
            "the floor alone"
        );
        let budget = RetryBudget::new(now);
        for _ in 0..1000 {
            budget.request(now);
        }
        assert_eq!(granted(&budget, NONE, now), 200);
        assert_eq!(
            granted(&budget, BudgetLimits::default(), now),
            100,
            "the floor comes on top"
        );
    }

    #[test]
    fn what_was_counted_is_forgotten_after_ten_seconds() {
        let began = Instant::now();
        let budget = RetryBudget::new(began);
        for _ in 0..100 {
            budget.request(began);
        }
        assert_eq!(granted(&budget, NONE, began), 20);
        assert!(
            !budget.withdraw(NONE, began + Duration::from_secs(9)),
            "still used up"
        );
        let later = began + WINDOW;
        assert!(!budget.withdraw(NONE, later), "no requests any more");
        for _ in 0..5 {
            budget.request(later);
        }
        assert_eq!(granted(&budget, NONE, later), 1);
    }

    #[test]
    fn a_slot_that_is_used_again_forgets_its_old_second() {
        let began = Instant::now();
        let budget = RetryBudget::new(began);
        for second in 0..100 {
            budget.request(began + Duration::from_secs(second));
        }
        let (requests, _) = budget.sums(began + Duration::from_secs(99));
        assert_eq!(requests, 10);
    }
}
