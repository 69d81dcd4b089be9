//! `outlierDetection` of a `trafficPolicy`: when an endpoint is left out for its failures.
//!
//! Place in the walk: translation writes it, a snapshot settles it for each port. Must not know: endpoints, outcomes.

use std::time::Duration;

/// `outlierDetection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// So many answers of 5xx, or failures, in a row eject; 0 never.
    pub consecutive_5xx: u32,
    /// So many answers of 502, 503 or 504, or failures, in a row eject; 0 never.
    pub consecutive_gateway: u32,
    /// So many failures without an answer in a row eject; 0 never. Only where [`Self::splits_local`].
    pub consecutive_local: u32,
    /// Whether failures without an answer are counted apart from answers.
    pub splits_local: bool,
    /// How often rates are looked at and good conduct is rewarded.
    pub interval: Duration,
    /// The length of a first ejection; each that follows soon is longer by as much.
    pub base_ejection: Duration,
    /// The longest ejection.
    pub max_ejection: Duration,
    /// How many of the endpoints may be ejected at once, in percent; one may be in any case, unless it is the last.
    pub max_ejected_percent: u32,
    /// With fewer good ones than this percentage all are used; 0 never does that.
    pub min_health_percent: u32,
    /// Ejects what succeeds less often than the mean by so many thousandths of the standard deviation.
    pub success_rate_stdev_milli: Option<u32>,
    /// The statuses that are errors; `None` for 5xx.
    pub errors: Option<ErrorCodes>,
}

impl Default for OutlierDetection {
    /// Istio's defaults.
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            consecutive_local: 5,
            splits_local: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_mins(5),
            max_ejected_percent: 10,
            min_health_percent: 0,
            success_rate_stdev_milli: None,
            errors: None,
        }
    }
}

/// `outlierDetectionHttpErrorCodes`: statuses from 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ErrorCodes([u64; 8]);

impl ErrorCodes {
    /// These statuses; `None` where one is out of range.
    pub fn of(codes: &[u32]) -> Option<Self> {
        let mut held = Self::default();
        for code in codes {
            let (word, bit) = Self::place(u16::try_from(*code).ok()?)?;
            *held.0.get_mut(word)? |= bit;
        }
        Some(held)
    }

    /// Whether a status is one of them.
    pub fn holds(&self, status: u16) -> bool {
        let place = Self::place(status);
        place.is_some_and(|(word, bit)| self.0.get(word).is_some_and(|held| held & bit != 0))
    }

    fn place(status: u16) -> Option<(usize, u64)> {
        let index = (100..=599).contains(&status).then(|| status - 100)?;
        Some((usize::from(index / 64), 1 << (index % 64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_were_named_and_no_others() {
        let codes = ErrorCodes::of(&[100, 429, 503, 599]).unwrap();
        let held: Vec<u16> = (0..=u16::MAX).filter(|status| codes.holds(*status)).collect();
        assert_eq!(held, [100, 429, 503, 599]);
        for wrong in [99, 600, u32::MAX] {
            assert_eq!(ErrorCodes::of(&[500, wrong]), None);
        }
    }
}
