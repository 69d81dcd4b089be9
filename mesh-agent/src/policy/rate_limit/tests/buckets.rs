//! One bucket, and a bucket for each value of a key.

use proptest::prelude::*;

use super::*;
use crate::policy::rate_limit::bucket::{Bucket, Rate};
use crate::policy::rate_limit::limit::MAX_KEYS;

#[test]
fn a_bucket_is_full_at_the_start_and_refills_one_by_one() {
    let (_, limits) = limits(&[policy("shop", "p", vec![limit(local(2, 3), vec![])])], None);
    let start = Instant::now();
    let request = Request::new("/");
    for (after_ms, passes) in [
        (0, true),
        (0, true),
        (0, true),
        (0, false),
        (499, false),
        (500, true),
        (500, false),
        (999, false),
        (1000, true),
        // Never more than fit in.
        (9000, true),
        (9000, true),
        (9000, true),
        (9000, false),
    ] {
        let now = start + Duration::from_millis(after_ms);
        assert_eq!(request.passes(&limits, now), passes, "after {after_ms} ms");
    }
}

#[test]
fn who_is_refused_is_told_when_there_is_a_token() {
    for (unit, wait) in [
        (LimitUnit::Second, Duration::from_nanos(333_333_334)),
        (LimitUnit::Minute, Duration::from_secs(20)),
        (LimitUnit::Hour, Duration::from_mins(20)),
    ] {
        let local = LocalLimit { unit, ..local(3, 1) };
        let (_, limits) = limits(&[policy("shop", "p", vec![limit(local, vec![])])], None);
        let (request, now) = (Request::new("/"), Instant::now());
        assert!(request.passes(&limits, now));
        let exceeded = limits.count(&request.asked(), now).exceeded.unwrap();
        assert_eq!(exceeded.wait, wait);
        let just_before = now + wait.checked_sub(Duration::from_nanos(1)).unwrap();
        assert!(!request.passes(&limits, just_before), "{unit:?}");
        assert!(request.passes(&limits, now + wait), "{unit:?}");
    }
}

#[test]
fn a_clock_that_threads_read_in_another_order_gives_no_tokens() {
    let rate = Rate::new(&local(1, 1));
    let now = Instant::now();
    let mut bucket = Bucket::full(&rate, now + SECOND);
    assert_eq!(bucket.ask(&rate, now + SECOND), Ok(()));
    assert_eq!(bucket.ask(&rate, now), Err(SECOND));
    assert_eq!(bucket.ask(&rate, now + SECOND), Err(SECOND));
}

#[test]
fn each_value_of_a_key_has_a_bucket_of_its_own() {
    let parts = [
        KeyPart::Source,
        KeyPart::Header(HeaderName::from_static("x-user")),
        KeyPart::Path,
    ];
    let one = Request::new("/a").with("x-user", "u");
    let two = Request {
        source: Some(SpiffeId::new("cluster.local", "shop", "web").unwrap()),
        ..Request::new("/b").with("x-user", "v")
    };
    for part in parts {
        let limit = limit(local(1, 1), vec![part.clone()]);
        let (_, limits) = limits(&[policy("shop", "p", vec![limit])], None);
        let now = Instant::now();
        for request in [&one, &two] {
            assert!(request.passes(&limits, now), "{part:?}");
            assert!(!request.passes(&limits, now), "{part:?}");
        }
    }
}

#[test]
fn what_is_absent_is_a_value_of_its_own() {
    let (_, limits) = limits(&[policy("shop", "p", vec![limit(local(1, 1), user())])], None);
    let now = Instant::now();
    assert!(Request::new("/").passes(&limits, now));
    assert!(!Request::new("/other").passes(&limits, now), "no way round");
    assert!(
        Request::of("").passes(&limits, now),
        "an empty header is another value"
    );
}

#[test]
fn keys_are_bounded_and_those_without_room_are_counted_together() {
    let hourly = LocalLimit {
        unit: LimitUnit::Hour,
        ..local(1, 1)
    };
    let (_, limits) = limits(&[policy("shop", "p", vec![limit(hourly, user())])], None);
    let now = Instant::now();
    for number in 0..MAX_KEYS {
        assert!(Request::of(&number.to_string()).passes(&limits, now));
    }
    let counted = limits.count(&Request::of("one more").asked(), now);
    assert_eq!((counted.exceeded, counted.crowded), (None, 1));
    let counted = limits.count(&Request::of("another").asked(), now);
    assert!(counted.exceeded.is_some(), "they share one token");
    assert!(
        !Request::of("7").passes(&limits, now),
        "who has a bucket keeps it"
    );

    // Two hours later all are full again, and forgotten.
    let later = now + 7200 * SECOND;
    let counted = limits.count(&Request::of("another").asked(), later);
    assert_eq!((counted.exceeded, counted.crowded), (None, 0));
}

#[test]
fn nobody_is_forgotten_before_the_bucket_is_full_again() {
    let (_, limits) = limits(&[policy("shop", "p", vec![limit(local(1, 10), user())])], None);
    let start = Instant::now();
    let request = Request::of("u");
    assert_eq!(passing(&limits, &request, 20, start), 10);
    // Others keep the generations turning.
    for second in 1..=9 {
        assert!(Request::of("v").passes(&limits, start + second * SECOND));
    }
    assert_eq!(passing(&limits, &request, 20, start + 9 * SECOND), 9);
}

proptest! {
    #[test]
    fn never_more_than_the_burst_and_what_came_since(
        requests in 1..1000_u32,
        burst in 1..50_u32,
        gaps_us in prop::collection::vec(0..200_000_u64, 1..300),
    ) {
        let rate = Rate::new(&local(requests, burst));
        let start = Instant::now();
        let mut bucket = Bucket::full(&rate, start);
        let (mut elapsed, mut granted) = (Duration::ZERO, 0_u128);
        for gap in gaps_us {
            elapsed += Duration::from_micros(gap);
            granted += u128::from(bucket.ask(&rate, start + elapsed).is_ok());
            let came = elapsed.as_nanos() * u128::from(requests) / SECOND.as_nanos();
            prop_assert!(granted <= u128::from(burst) + came);
        }
    }

    #[test]
    fn who_asks_only_when_told_to_is_always_let_in(requests in 1..1000_u32, burst in 1..5_u32) {
        let rate = Rate::new(&local(requests, burst));
        let mut now = Instant::now();
        let mut bucket = Bucket::full(&rate, now);
        for _ in 0..200 {
            if let Err(wait) = bucket.ask(&rate, now) {
                now += wait;
                prop_assert_eq!(bucket.ask(&rate, now), Ok(()));
            }
        }
    }
}
