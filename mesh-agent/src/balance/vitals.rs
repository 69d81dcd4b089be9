//! What one upstream, a port of a Service, is doing as a whole: counts for limits, hashing with bounds, and metrics.
//!
//! Place in the walk: written at picks, read by the control thread. Must not know: endpoints, policies.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::budget::RetryBudget;
use super::{Cause, Latency, Limit};

/// Counters of one upstream; they outlive the snapshot that made them.
#[derive(Debug, Default)]
pub struct Vitals {
    under_way: [AtomicUsize; Limit::ALL.len()],
    overflows: [AtomicU64; Limit::ALL.len()],
    ejected: AtomicUsize,
    ejections: [AtomicU64; Cause::ALL.len()],
    retries: RetryBudget,
    /// These two only where somebody hedges: they are ten times as large as all else.
    hedges: OnceLock<Box<RetryBudget>>,
    latency: OnceLock<Box<Latency>>,
    /// When the last interval of outlier detection ended; for the control thread alone.
    pub(super) interval_ended: Mutex<Option<Instant>>,
}

impl Vitals {
    /// How many of a kind are under way from this node.
    pub fn under_way(&self, limit: Limit) -> usize {
        limit.of(&self.under_way).load(Ordering::Relaxed)
    }

    /// How many of a kind were refused so far.
    pub fn overflows(&self, limit: Limit) -> u64 {
        limit.of(&self.overflows).load(Ordering::Relaxed)
    }

    /// What was spent on trying again.
    pub fn retries(&self) -> &RetryBudget {
        &self.retries
    }

    /// What was spent on asking a second endpoint too.
    pub fn hedges(&self) -> &RetryBudget {
        self.hedges.get_or_init(Box::default)
    }

    /// How long answers took, where somebody wants to know.
    pub fn latency(&self) -> &Latency {
        self.latency.get_or_init(Box::default)
    }

    /// How many endpoints are ejected.
    pub fn ejected(&self) -> usize {
        self.ejected.load(Ordering::Relaxed)
    }

    /// How many ejections there were for a cause so far.
    pub fn ejections(&self, cause: Cause) -> u64 {
        self.of_cause(cause).load(Ordering::Relaxed)
    }

    /// Counts one more if there are fewer than `most`.
    pub(super) fn begin(&self, limit: Limit, most: usize) -> bool {
        let count = limit.of(&self.under_way);
        if count.fetch_add(1, Ordering::Relaxed) < most {
            return true;
        }
        count.fetch_sub(1, Ordering::Relaxed);
        limit.of(&self.overflows).fetch_add(1, Ordering::Relaxed);
        false
    }

    pub(super) fn end(&self, limit: Limit) {
        limit.of(&self.under_way).fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one more ejected endpoint if `allows` so many.
    pub(super) fn eject(&self, cause: Cause, allows: impl Fn(usize) -> bool) -> bool {
        let one_more = |ejected: usize| allows(ejected + 1).then_some(ejected + 1);
        let is_allowed = self
            .ejected
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok();
        if is_allowed {
            self.of_cause(cause).fetch_add(1, Ordering::Relaxed);
        }
        is_allowed
    }

    /// So many are ejected after all have been looked at.
    pub(super) fn ejected_now(&self, count: usize) {
        self.ejected.store(count, Ordering::Relaxed);
    }

    fn of_cause(&self, cause: Cause) -> &AtomicU64 {
        let [server_errors, gateway_errors, local_failures, success_rate] = &self.ejections;
        match cause {
            Cause::Consecutive5xx => server_errors,
            Cause::ConsecutiveGateway => gateway_errors,
            Cause::ConsecutiveLocal => local_failures,
            Cause::SuccessRate => success_rate,
        }
    }
}
