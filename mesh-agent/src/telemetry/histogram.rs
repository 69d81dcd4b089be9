//! A histogram whose observations are two atomic additions.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// Upper bounds in a fine integer unit, and how many of it make the unit that is shown.
#[derive(Debug, PartialEq)]
pub(super) struct Scale {
    bounds: &'static [u64],
    per_unit: f64,
}

/// Milliseconds, counted in microseconds. The bounds are Envoy's defaults.
pub(super) static MILLISECONDS: Scale = Scale {
    bounds: &[
        500,
        1_000,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        30_000_000,
        60_000_000,
        300_000_000,
        600_000_000,
        1_800_000_000,
        3_600_000_000,
    ],
    per_unit: 1_000.0,
};

/// Bytes. The bounds are Envoy's defaults, without the half byte.
pub(super) static BYTES: Scale = Scale {
    bounds: &[
        1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000,
        1_800_000, 3_600_000,
    ],
    per_unit: 1.0,
};

/// Counts observations by upper bound. Readers may see the sum of an observation a moment before its count.
#[derive(Debug)]
pub(super) struct Histogram {
    scale: &'static Scale,
    /// One for each bound, and a last one for what is above them all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(scale: &'static Scale) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default)
            .take(scale.bounds.len() + 1)
            .collect();
        Self {
            scale,
            counts,
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one observation, in the fine unit of the scale.
    pub(super) fn observe(&self, value: u64) {
        let bucket = self.scale.bounds.partition_point(|bound| *bound < value);
        self.sum.fetch_add(value, Ordering::Relaxed);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn encode(&self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let bounds = self
            .scale
            .bounds
            .iter()
            .map(|bound| float(*bound) / self.scale.per_unit);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let sum = float(self.sum.load(Ordering::Relaxed)) / self.scale.per_unit;
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// What a scrape shows: exact up to 2^53, then rounded as every Prometheus sample is.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "samples are doubles, and std has no other way from u64"
)]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(histogram: &Histogram) -> Vec<u64> {
        histogram
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect()
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::new(&MILLISECONDS);
        for value in [0, 500, 501, 3_600_000_001] {
            histogram.observe(value);
        }
        let counts = counts(&histogram);
        assert_eq!((counts[0], counts[1], *counts.last().unwrap()), (2, 1, 1));
    }

    #[test]
    fn bounds_rise() {
        for scale in [&MILLISECONDS, &BYTES] {
            assert!(scale.bounds.is_sorted_by(|a, b| a < b));
        }
    }

    proptest! {
        #[test]
        fn each_observation_is_counted_once_and_below_its_bound(value in any::<u32>()) {
            let value = u64::from(value);
            let histogram = Histogram::new(&BYTES);
            histogram.observe(value);
            let counts = counts(&histogram);
            let bucket = counts.iter().position(|count| *count == 1).unwrap();
            prop_assert_eq!(counts.iter().sum::<u64>(), 1);
            prop_assert!(BYTES.bounds.get(bucket).is_none_or(|bound| value <= *bound));
            prop_assert!(bucket == 0 || value > BYTES.bounds[bucket - 1]);
        }
    }
}
