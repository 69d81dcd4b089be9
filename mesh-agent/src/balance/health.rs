//! What one endpoint answers its health checks, and what that makes of it.
//!
//! Place in the walk: written when a check ends, read at each pick. Must not know: what is asked, when, and by whom.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// It belongs to an endpoint of a Service, is shared by all pods of this node and by subsets, and survives a new snapshot.
///
/// An endpoint that was not asked yet counts as healthy: checks begin with the traffic, and its first requests do not wait.
/// Only one thread writes.
#[derive(Debug, Default)]
pub struct Health {
    is_unhealthy: AtomicBool,
    /// Checks in a row that speak against what it is taken for.
    against: AtomicU32,
    /// When it was first asked.
    since: OnceLock<Instant>,
    /// Milliseconds after `since` plus one at which it became healthy again; zero if it never did.
    recovered_at: AtomicU64,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finding {
    /// The answer that is wanted.
    Passed,
    /// Another answer: the application lives, and says no.
    Failed,
    /// No answer in time, no connection, or one that is no better than none.
    NoAnswer,
}

/// How many findings in a row count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Without an answer, to make it unhealthy.
    pub unhealthy: u32,
    /// Passed, to make it healthy again.
    pub healthy: u32,
}

/// What an endpoint became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It is left out from now on.
    Unhealthy,
    /// It is used again.
    Healthy,
}

impl Health {
    /// Whether it is left out.
    pub fn is_unhealthy(&self) -> bool {
        self.is_unhealthy.load(Ordering::Relaxed)
    }

    /// Takes a finding in.
    pub fn found(&self, finding: Finding, thresholds: Thresholds, now: Instant) -> Option<Change> {
        let since = *self.since.get_or_init(|| now);
        let enough = match (self.is_unhealthy(), finding) {
            (false, Finding::Passed) | (true, Finding::Failed | Finding::NoAnswer) => {
                self.against.store(0, Ordering::Relaxed);
                return None;
            }
            // As Envoy does it: an application that says no is believed at once.
            (false, Finding::Failed) => 1,
            (false, Finding::NoAnswer) => thresholds.unhealthy,
            (true, Finding::Passed) => thresholds.healthy,
        };
        let against = self.against.fetch_add(1, Ordering::Relaxed) + 1;
        if against < enough {
            return None;
        }
        self.against.store(0, Ordering::Relaxed);
        let is_recovered = self.is_unhealthy();
        if is_recovered {
            let at = now.saturating_duration_since(since).as_millis();
            let at = u64::try_from(at).unwrap_or(u64::MAX - 1) + 1;
            self.recovered_at.store(at, Ordering::Relaxed);
        }
        self.is_unhealthy.store(!is_recovered, Ordering::Relaxed);
        Some(if is_recovered {
            Change::Healthy
        } else {
            Change::Unhealthy
        })
    }

    /// Nobody asks any more: what was known says nothing. Whether that changes what it is taken for.
    pub fn forget(&self) -> bool {
        self.against.store(0, Ordering::Relaxed);
        self.is_unhealthy.swap(false, Ordering::Relaxed)
    }

    /// For how long it has been healthy again, if it was unhealthy once.
    pub(super) fn recovered_for(&self, now: Instant) -> Option<Duration> {
        let at = Duration::from_millis(self.recovered_at.load(Ordering::Relaxed).checked_sub(1)?);
        let since = self.since.get()?;
        Some(now.saturating_duration_since(*since).saturating_sub(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THRESHOLDS: Thresholds = Thresholds {
        unhealthy: 3,
        healthy: 2,
    };

    /// `+` passed, `-` no answer, `x` failed; what it is taken for after each.
    fn taken_for(findings: &str) -> String {
        let (health, now) = (Health::default(), Instant::now());
        let after = |finding| {
            let finding = match finding {
                '+' => Finding::Passed,
                '-' => Finding::NoAnswer,
                _ => Finding::Failed,
            };
            let before = health.is_unhealthy();
            let change = health.found(finding, THRESHOLDS, now);
            assert_eq!(change.is_some(), before != health.is_unhealthy());
            if health.is_unhealthy() { 'U' } else { 'H' }
        };
        findings.chars().map(after).collect()
    }

    #[test]
    fn findings_in_a_row_decide_and_a_wrong_answer_at_once() {
        for (findings, expected) in [
            ("+", "H"),
            ("--", "HH"),
            ("---", "HHU"),
            ("--+--", "HHHHH"),
            ("--+---", "HHHHHU"),
            ("x", "U"),
            ("+x", "HU"),
            ("x+", "UU"),
            ("x++", "UUH"),
            ("x+-+", "UUUU"),
            ("x+-++", "UUUUH"),
            ("x++--", "UUHHH"),
            ("x++x", "UUHU"),
            // What was counted before a change does not count after it.
            ("---++---", "HHUUHHHU"),
        ] {
            assert_eq!(taken_for(findings), expected, "{findings}");
        }
    }

    #[test]
    fn who_is_healthy_again_is_new_from_then_on() {
        let (health, start) = (Health::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        health.found(Finding::Passed, THRESHOLDS, at(0));
        assert_eq!(health.recovered_for(at(5)), None);
        health.found(Finding::Failed, THRESHOLDS, at(10));
        health.found(Finding::Passed, THRESHOLDS, at(20));
        health.found(Finding::Passed, THRESHOLDS, at(30));
        assert_eq!(health.recovered_for(at(35)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_is_forgotten_is_healthy() {
        let (health, now) = (Health::default(), Instant::now());
        assert!(!health.forget());
        health.found(Finding::Failed, THRESHOLDS, now);
        assert!(health.forget());
        assert!(!health.is_unhealthy());
    }

    proptest! {
        #[test]
        fn fewer_silences_than_the_threshold_never_change_anything(
            silences in prop::collection::vec(1..3_usize, 0..20),
        ) {
            let findings: String = silences.into_iter().map(|count| "-".repeat(count) + "+").collect();
            prop_assert!(!taken_for(&findings).contains('U'));
        }
    }
}
