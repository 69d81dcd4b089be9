//! When a Service was used last from this node, and by which address.
//!
//! Place in the walk: written at picks, read by whoever checks the health of its endpoints. Must not know: pods.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// It belongs to a Service and survives a new snapshot.
#[derive(Debug, Default)]
pub struct Usage {
    since: OnceLock<Instant>,
    /// Milliseconds after `since` plus one; zero while nobody used it.
    noted_at: AtomicU64,
    last: Mutex<Option<Used>>,
}

/// A use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The client's address.
    pub by: IpAddr,
    /// When, a second more or less.
    pub at: Instant,
}

impl Usage {
    /// Notes a use, at most once a second: a pick mostly reads one number.
    pub fn note(&self, by: IpAddr, at: Instant) {
        let since = *self.since.get_or_init(|| at);
        let after = at.saturating_duration_since(since).as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX - 1) + 1;
        let noted = self.noted_at.load(Ordering::Relaxed);
        if noted != 0 && after < noted.saturating_add(EVERY_MS) {
            return;
        }
        let is_mine = self
            .noted_at
            .compare_exchange(noted, after, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if is_mine {
            *self.last.lock() = Some(Used { by, at });
        }
    }

    /// The last use that was noted.
    pub fn last(&self) -> Option<Used> {
        *self.last.lock()
    }
}

impl Used {
    /// Whether it is no longer ago than `window`.
    pub fn is_within(&self, window: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= window
    }
}

const EVERY_MS: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_last_use_is_known_to_a_second() {
        let (usage, start) = (Usage::default(), Instant::now());
        assert_eq!(usage.last(), None);
        let by = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        let at = |ms| start + Duration::from_millis(ms);
        usage.note(by(1), at(0));
        usage.note(by(2), at(999));
        assert_eq!(usage.last(), Some(Used { by: by(1), at: at(0) }));
        usage.note(by(3), at(1000));
        let last = usage.last().unwrap();
        assert_eq!((last.by, last.at), (by(3), at(1000)));
        assert!(last.is_within(Duration::from_secs(1), at(2000)));
        assert!(!last.is_within(Duration::from_secs(1), at(2001)));
    }
}
