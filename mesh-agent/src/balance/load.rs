//! What one endpoint is doing for this node: requests under way, and how long it takes to answer.
//!
//! Place in the walk: read at a pick, written when one is taken, answered and given back. Must not know: algorithms.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The active requests and the response time of one endpoint, over all pods of this node.
///
/// It outlives the snapshot that made it: requests that are under way keep counting in the next one.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicUsize,
    /// The estimate in microseconds (upper half), and when it was made, in milliseconds after `epoch` (lower half).
    latency: AtomicU64,
    epoch: OnceLock<Instant>,
}

impl Load {
    /// Requests or connections that are under way.
    pub fn active(&self) -> usize {
        // A balancer compares counts that move while it looks; no other memory is published through them.
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// An answer took `rtt`: a peak counts at once, what is faster sinks in by and by (tower's peak EWMA).
    pub(super) fn answered(&self, rtt: Duration, now: Instant) {
        let at = self.millis_of(now);
        let sink_in = |packed| {
            let (estimate, elapsed) = unpack(packed, at);
            let new = if rtt > estimate {
                rtt
            } else {
                let kept = decay(elapsed);
                estimate.mul_f64(kept) + rtt.mul_f64(1.0 - kept)
            };
            Some(pack(new, at))
        };
        // The closure always gives a value, so that the update cannot fail; a lost race is run again.
        let _previous = self
            .latency
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, sink_in);
    }

    /// The response time to expect, in microseconds: without news it fades, so that a slow endpoint is tried again.
    pub(super) fn expected_micros(&self, now: Instant) -> u64 {
        let (estimate, elapsed) = unpack(self.latency.load(Ordering::Relaxed), self.millis_of(now));
        let faded = estimate.mul_f64(decay(elapsed)).max(FLOOR);
        u64::try_from(faded.as_micros()).unwrap_or(u64::MAX)
    }

    fn millis_of(&self, now: Instant) -> u32 {
        let epoch = *self.epoch.get_or_init(|| now);
        // One is added so that no estimate is ever packed as zero.
        let millis = now.saturating_duration_since(epoch).as_millis() + 1;
        u32::try_from(millis).unwrap_or(u32::MAX)
    }
}

/// The estimate, and how old it is at `at`; nothing is known of an endpoint that has not answered yet.
fn unpack(packed: u64, at: u32) -> (Duration, Duration) {
    if packed == 0 {
        return (UNKNOWN, Duration::ZERO);
    }
    let made = u32::try_from(packed & u64::from(u32::MAX)).unwrap_or_default();
    let elapsed = Duration::from_millis(u64::from(at.saturating_sub(made)));
    (Duration::from_micros(packed >> 32), elapsed)
}

fn pack(estimate: Duration, at: u32) -> u64 {
    let micros = u32::try_from(estimate.as_micros()).unwrap_or(u32::MAX);
    (u64::from(micros) << 32) | u64::from(at)
}

/// How much of an estimate is left after a time.
fn decay(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

/// linkerd2-proxy's constants.
const DECAY: Duration = Duration::from_secs(10);
const UNKNOWN: Duration = Duration::from_millis(30);
const FLOOR: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_peak_counts_at_once_and_sinks_by_the_decay() {
        let (load, start) = (Load::default(), Instant::now());
        assert_eq!(load.expected_micros(start), 30_000, "nothing is known yet");
        load.answered(ms(500), start);
        assert_eq!(load.expected_micros(start), 500_000);
        // After one decay time a faster answer counts 1 - 1/e.
        let later = start + DECAY;
        load.answered(ms(100), later);
        let expected = 500_000.0 / std::f64::consts::E + 100_000.0 * (1.0 - 1.0 / std::f64::consts::E);
        let found = f64::from(u32::try_from(load.expected_micros(later)).unwrap());
        assert!((found - expected).abs() < 10.0, "{found} {expected}");
    }

    #[test]
    fn without_news_the_estimate_fades_to_the_floor() {
        let (load, start) = (Load::default(), Instant::now());
        load.answered(ms(500), start);
        assert!(load.expected_micros(start + DECAY) < 184_000);
        assert_eq!(load.expected_micros(start + 20 * DECAY), 1_000);
    }
}
