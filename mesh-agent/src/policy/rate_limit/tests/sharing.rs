//! A limit that is divided between callers.

use proptest::prelude::*;

use super::*;
use crate::policy::rate_limit::bucket::Rate;
use crate::policy::rate_limit::divided::Divided;

/// So many requests a second for all callers together.
fn divided(requests: u32, burst: u32) -> (Rate, Divided) {
    let rate = Rate::new(&local(requests, burst));
    (rate, Divided::new(&rate, 100))
}

/// What each caller gets in `seconds`, of which each asks once in `every_ms` of its own.
fn simulate(requests: u32, burst: u32, every_ms: &[u64], seconds: u64) -> Vec<u64> {
    let (rate, mut divided) = divided(requests, burst);
    let start = Instant::now();
    let mut granted = vec![0; every_ms.len()];
    for ms in 0..seconds * 1000 {
        let now = start + Duration::from_millis(ms);
        for (caller, every) in every_ms.iter().enumerate() {
            if ms % every == 0 {
                let (result, _) = divided.ask(&rate, u64::try_from(caller).unwrap(), now);
                granted[caller] += u64::from(result.is_ok());
            }
        }
    }
    granted
}

#[test]
fn callers_who_all_want_more_get_the_same() {
    for callers in [2, 3, 7] {
        let granted = simulate(100, 100, &vec![1; callers], 20);
        let fair = 2000 / u64::try_from(callers).unwrap();
        for got in &granted {
            assert!(
                (fair * 95 / 100..fair * 112 / 100).contains(got),
                "{callers} callers got {granted:?}"
            );
        }
    }
}

#[test]
fn a_modest_caller_is_never_refused_for_the_sake_of_a_greedy_one() {
    for burst in [4, 10, 100] {
        // 1,000 a second against 10 a second, of 100.
        let granted = simulate(100, burst, &[1, 100], 20);
        assert_eq!(granted[1], 200, "burst {burst}: {granted:?}");
        // What the modest one leaves is not lost.
        assert!(granted[0] >= 1700, "burst {burst}: {granted:?}");
    }
}

#[test]
fn a_newcomer_finds_a_token_whatever_others_have_taken() {
    let (rate, mut divided) = divided(10, 10);
    let now = Instant::now();
    let greedy = (0..100).filter(|_| divided.ask(&rate, 1, now).0.is_ok()).count();
    assert!((5..10).contains(&greedy), "{greedy}");
    for newcomer in 2..=3 {
        assert_eq!(divided.ask(&rate, newcomer, now).0, Ok(()));
    }
}

#[test]
fn a_caller_alone_has_all_that_comes() {
    let granted = simulate(100, 100, &[1], 20);
    assert!(granted[0] >= 2000, "{granted:?}");
}

proptest! {
    #[test]
    fn all_together_never_get_more_than_one_bucket_holds(
        requests in 1..500_u32,
        burst in 2..50_u32,
        asks in prop::collection::vec((0..6_u64, 0..50_000_u64), 1..400),
    ) {
        let (rate, mut divided) = divided(requests, burst);
        let start = Instant::now();
        let (mut elapsed, mut granted) = (Duration::ZERO, 0_u128);
        for (caller, gap) in asks {
            elapsed += Duration::from_micros(gap);
            granted += u128::from(divided.ask(&rate, caller, start + elapsed).0.is_ok());
            let came = elapsed.as_nanos() * u128::from(requests) / SECOND.as_nanos();
            prop_assert!(granted <= u128::from(burst) + came);
        }
    }

    #[test]
    fn a_caller_within_its_share_is_let_in(
        callers in 2..6_u64,
        burst in 12..60_u32,
        offsets_ms in prop::collection::vec(0..40_u64, 6),
    ) {
        // Each of them but the first asks for exactly its share, the first all the time.
        let requests = 100;
        let (rate, mut divided) = divided(requests, burst);
        let start = Instant::now();
        let share_ms = 1000 * callers / u64::from(requests);
        for ms in 0..5000 {
            let now = start + Duration::from_millis(ms);
            for (caller, offset) in (0..callers).zip(&offsets_ms) {
                let asks = caller == 0 || (ms >= *offset && (ms - offset) % share_ms == 0);
                if asks {
                    let (result, _) = divided.ask(&rate, caller, now);
                    prop_assert!(caller == 0 || result.is_ok(), "caller {caller} after {ms} ms");
                }
            }
        }
    }
}
