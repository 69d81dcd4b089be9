//! How one endpoint of an upstream has behaved: its failures in a row, whether it is ejected, how new it is.
//!
//! Place in the walk: written when an answer is known, read at each pick. Must not know: what the numbers lead to.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// It belongs to an endpoint of one upstream, is shared by all pods of this node, and survives a new snapshot.
#[derive(Debug, Default)]
pub struct Standing {
    /// When it was first seen.
    since: OnceLock<Instant>,
    /// Milliseconds after `since` plus one; zero while it is not ejected.
    ejected_at: AtomicU64,
    /// How many base times the next ejection lasts, less one.
    pub(super) multiplier: AtomicU32,
    pub(super) server_errors: AtomicU32,
    pub(super) gateway_errors: AtomicU32,
    pub(super) local_failures: AtomicU32,
    /// Answers of this interval, and those among them that were good.
    pub(super) answers: AtomicU32,
    pub(super) good: AtomicU32,
}

impl Standing {
    /// Whether it is left out for its failures.
    pub fn is_ejected(&self) -> bool {
        self.ejected_at.load(Ordering::Relaxed) != 0
    }

    /// How long it has been known.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.since.get_or_init(|| now))
    }

    /// As [`Self::age`], without beginning to count.
    pub(super) fn age_so_far(&self, now: Instant) -> Duration {
        let since = self.since.get();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }

    /// Ejects it; false if it is already.
    pub(super) fn eject(&self, now: Instant) -> bool {
        let at = u64::try_from(self.age(now).as_millis()).unwrap_or(u64::MAX - 1) + 1;
        self.ejected_at
            .compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// For how long it has been ejected.
    pub(super) fn ejected_for(&self, now: Instant) -> Option<Duration> {
        let at = Duration::from_millis(self.ejected_at.load(Ordering::Relaxed).checked_sub(1)?);
        Some(self.age(now).saturating_sub(at))
    }

    /// Takes it back, with a clean record.
    pub(super) fn pardon(&self) {
        self.ejected_at.store(0, Ordering::Relaxed);
        for count in [&self.server_errors, &self.gateway_errors, &self.local_failures] {
            count.store(0, Ordering::Relaxed);
        }
    }
}
