//! Slow start: what part of its share a new endpoint gets.
//!
//! Place in the walk: asked at a pick of a member that is new. Must not know: when anything began.

use std::time::Duration;

use crate::mesh::traffic::Warmup;

/// Between 0 and 1; 1 from the end of the warm-up on (Envoy's formula).
pub(super) fn part(warmup: &Warmup, age: Duration) -> f64 {
    if age >= warmup.duration {
        return 1.0;
    }
    let time = age.as_secs_f64().max(1.0) / warmup.duration.as_secs_f64();
    let aggression = f64::from(warmup.aggression_milli.max(1)) / 1000.0;
    let least = f64::from(warmup.minimum_percent) / 100.0;
    time.powf(1.0 / aggression).max(least).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_endpoint_grows_along_envoys_curve() {
        for (aggression_milli, minimum_percent, age, expected) in [
            (1000, 10, 0, 0.1),
            (1000, 10, 5, 0.1),
            (1000, 10, 30, 0.5),
            (1000, 10, 45, 0.75),
            (1000, 10, 60, 1.0),
            (1000, 10, 90, 1.0),
            (1000, 0, 0, 1.0 / 60.0),
            // The square root: faster at first.
            (2000, 10, 15, 0.5),
            // The square: slower at first.
            (500, 10, 30, 0.25),
            (1000, 100, 0, 1.0),
        ] {
            let warmup = Warmup {
                duration: Duration::from_mins(1),
                minimum_percent,
                aggression_milli,
            };
            let part = part(&warmup, Duration::from_secs(age));
            assert!((part - expected).abs() < 1e-9, "{aggression_milli} {age}: {part}");
        }
    }
}
