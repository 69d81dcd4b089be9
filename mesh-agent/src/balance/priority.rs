//! What share of the traffic each level of endpoints gets, by the health of all levels.
//!
//! Place in the walk: worked out when health changes, never at a pick. Must not know: endpoints.

/// How many of a group may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bearing {
    pub(super) good: usize,
    pub(super) all: usize,
}

impl Bearing {
    /// In percent, with 40 % more than is needed counted as health: a level of which 71.4 % are good takes all its
    /// traffic (Envoy's overprovisioning factor 1.4).
    pub(super) fn provision(self) -> u32 {
        let percent = (self.good * OVERPROVISION_PERCENT)
            .checked_div(self.all)
            .unwrap_or_default();
        u32::try_from(percent.min(100)).unwrap_or(100)
    }

    fn is_below(self, percent: u32) -> bool {
        let percent = usize::try_from(percent).unwrap_or(usize::MAX);
        self.good * 100 < self.all.saturating_mul(percent)
    }
}

/// What becomes of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    /// Against the shares of the others; they sum up to 100 while any may be used, except in panic of all.
    pub(super) share: u32,
    /// Ejected endpoints are used too.
    pub(super) is_panicking: bool,
}

/// Envoy's loads by priority: each level what it can bear, the rest to the next one (`priority.rst`), and those of
/// which less than `panic_percent` are good use all endpoints, unless the levels together bear everything
/// (`panic_threshold.rst`).
pub(super) fn levels(healths: &[Bearing], panic_percent: u32) -> Vec<Level> {
    let provisions: Vec<u32> = healths.iter().map(|health| health.provision()).collect();
    let together = provisions.iter().sum::<u32>().min(100);
    let panics = |health: &Bearing| together < 100 && health.is_below(panic_percent);
    if together == 0 {
        // Nobody is good: by numbers where panic says so, else nobody.
        return healths
            .iter()
            .map(|health| Level {
                share: if panics(health) {
                    u32::try_from(health.all).unwrap_or(u32::MAX)
                } else {
                    0
                },
                is_panicking: panics(health),
            })
            .collect();
    }
    let mut left = 100;
    let mut levels: Vec<Level> = healths
        .iter()
        .zip(&provisions)
        .map(|(health, provision)| {
            let share = (provision * 100 / together).min(left);
            left -= share;
            let is_panicking = panics(health);
            Level { share, is_panicking }
        })
        .collect();
    // What rounding left over goes to the first that takes anything.
    if let Some(first) = levels.iter_mut().find(|level| level.share > 0) {
        first.share += left;
    }
    levels
}

const OVERPROVISION_PERCENT: usize = 140;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_100(good: &[usize]) -> Vec<Bearing> {
        good.iter().map(|&good| Bearing { good, all: 100 }).collect()
    }

    #[test]
    fn shares_and_panic_are_those_of_envoys_tables() {
        // priority.rst, two levels and three; panic_threshold.rst with its default of 50 %.
        let cases: [(&[usize], &[u32], bool); 16] = [
            (&[100, 100], &[100, 0], false),
            (&[72, 100], &[100, 0], false),
            (&[71, 100], &[99, 1], false),
            (&[50, 100], &[70, 30], false),
            (&[25, 100], &[35, 65], false),
            (&[0, 100], &[0, 100], false),
            (&[72, 72], &[100, 0], false),
            (&[71, 71], &[99, 1], false),
            (&[50, 60], &[70, 30], false),
            (&[25, 25], &[50, 50], true),
            (&[100, 100, 100], &[100, 0, 0], false),
            (&[72, 100, 100], &[100, 0, 0], false),
            (&[71, 71, 100], &[99, 1, 0], false),
            (&[50, 50, 100], &[70, 30, 0], false),
            (&[25, 100, 100], &[35, 65, 0], false),
            (&[25, 25, 100], &[35, 35, 30], false),
        ];
        for (good, shares, is_panicking) in cases {
            let levels = levels(&of_100(good), 50);
            assert_eq!(
                levels.iter().map(|level| level.share).collect::<Vec<_>>(),
                shares,
                "{good:?}"
            );
            assert!(
                levels.iter().all(|level| level.is_panicking == is_panicking),
                "{good:?}"
            );
        }
        // 7 and 91 of 98 are 7 and 92, and what is left over of 100 goes to the first.
        let uneven = levels(&of_100(&[5, 65]), 50);
        assert_eq!(uneven.iter().map(|level| level.share).sum::<u32>(), 100);
        assert_eq!(
            uneven.iter().map(|level| level.is_panicking).collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[test]
    fn when_nobody_is_good_all_are_used_by_numbers_or_nobody() {
        let healths = [Bearing { good: 0, all: 3 }, Bearing { good: 0, all: 1 }];
        let shares =
            |panic| -> Vec<u32> { levels(&healths, panic).iter().map(|level| level.share).collect() };
        assert_eq!(shares(50), [3, 1]);
        assert_eq!(shares(0), [0, 0]);
        assert!(levels(&healths, 0).iter().all(|level| !level.is_panicking));
    }

    proptest! {
        #[test]
        fn the_shares_sum_up_to_all_of_the_traffic(good in prop::collection::vec(0..=100_usize, 1..6)) {
            let levels = levels(&of_100(&good), 0);
            let sum: u32 = levels.iter().map(|level| level.share).sum();
            prop_assert_eq!(sum, if good.iter().all(|good| *good == 0) { 0 } else { 100 });
            for (level, good) in levels.iter().zip(&good) {
                prop_assert!(*good > 0 || level.share == 0, "{:?}", levels);
            }
        }
    }
}
