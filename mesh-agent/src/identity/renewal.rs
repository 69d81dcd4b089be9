//! When a certificate is renewed, and when a failed attempt is tried again. Pure.

use std::time::{Duration, SystemTime};

/// How long to wait before renewing a certificate that lives on for `remaining`: about half of it.
///
/// `jitter` from 0 to 1 spreads the certificates of agents that started together.
pub(super) fn renewal_delay(remaining: Duration, jitter: f64) -> Duration {
    remaining.mul_f64(0.45 + 0.1 * jitter.clamp(0.0, 1.0))
}

/// How long to wait after `failures` failed attempts in a row: doubles from one second to one minute, and up to half
/// of it taken off.
pub(super) fn retry_delay(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(MAX_DOUBLINGS);
    let full = FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// Whether no more than a quarter of the time for which it was obtained is left: renewal at half has failed for long.
pub(super) fn is_overdue(obtained: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    let life = not_after.duration_since(obtained).unwrap_or_default();
    now + life / 4 >= not_after
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);
const MAX_DOUBLINGS: u32 = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retries_double_and_stay_below_a_minute() {
        let delays: Vec<u64> = (1..=9)
            .map(|failures| retry_delay(failures, 1.0).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_certificate_is_overdue_in_its_last_quarter() {
        let (start, end) = (
            SystemTime::UNIX_EPOCH,
            SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        );
        let at = |seconds| is_overdue(start, end, start + Duration::from_secs(seconds));
        assert_eq!(
            [0, 50, 74, 75, 100, 200].map(at),
            [false, false, false, true, true, true]
        );
    }

    proptest! {
        #[test]
        fn renewal_leaves_at_least_two_fifths_of_the_life_for_retries(
            seconds in 1_u64..10_000_000,
            jitter in -1.0..2.0_f64,
        ) {
            let life = Duration::from_secs(seconds);
            let delay = renewal_delay(life, jitter);
            prop_assert!(delay >= life.mul_f64(0.4) && delay <= life.mul_f64(0.6));
        }

        #[test]
        fn retries_never_hammer_the_issuer(failures in any::<u32>(), jitter in any::<f64>()) {
            prop_assume!(!jitter.is_nan());
            let delay = retry_delay(failures, jitter);
            prop_assert!(delay >= FIRST_RETRY / 2 && delay <= LAST_RETRY);
        }
    }
}
