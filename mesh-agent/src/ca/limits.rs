//! How often each caller may ask: a bucket of tokens for each, in bounded memory. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// Tokens flow into each caller's bucket up to `burst`; a request takes one.
#[derive(Debug)]
pub(super) struct RateLimit<K> {
    burst: f64,
    per_second: f64,
    capacity: usize,
    buckets: HashMap<K, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Eq + Hash> RateLimit<K> {
    pub(super) fn new(burst: u32, per_second: u32, capacity: usize) -> Self {
        Self {
            burst: f64::from(burst),
            per_second: f64::from(per_second),
            capacity,
            buckets: HashMap::new(),
        }
    }

    /// Whether `caller` may ask now. When more callers than the capacity are short of tokens, new ones may not.
    pub(super) fn take(&mut self, caller: K, now: Instant) -> bool {
        if self.buckets.len() >= self.capacity && !self.buckets.contains_key(&caller) {
            let (burst, per_second) = (self.burst, self.per_second);
            self.buckets
                .retain(|_, bucket| bucket.filled(burst, per_second, now) < burst);
            if self.buckets.len() >= self.capacity {
                return false;
            }
        }
        let bucket = self.buckets.entry(caller).or_insert(Bucket {
            tokens: self.burst,
            at: now,
        });
        bucket.tokens = bucket.filled(self.burst, self.per_second, now);
        bucket.at = now;
        let may = bucket.tokens >= 1.0;
        if may {
            bucket.tokens -= 1.0;
        }
        may
    }
}

impl Bucket {
    fn filled(&self, burst: f64, per_second: f64, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + since * per_second).min(burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_granted_then_the_rate() {
        let start = Instant::now();
        let mut limit = RateLimit::new(3, 2, 10);
        assert_eq!(
            [(); 4].map(|()| limit.take("a", start)),
            [true, true, true, false]
        );
        let later = start + Duration::from_secs(1);
        assert_eq!([(); 3].map(|()| limit.take("a", later)), [true, true, false]);
    }

    #[test]
    fn callers_do_not_take_from_each_other() {
        let now = Instant::now();
        let mut limit = RateLimit::new(1, 1, 10);
        assert!(limit.take("a", now) && !limit.take("a", now) && limit.take("b", now));
    }

    #[test]
    fn memory_is_bounded_and_full_buckets_make_room() {
        let now = Instant::now();
        let mut limit = RateLimit::new(1, 1, 2);
        assert!(limit.take(1, now) && limit.take(2, now));
        assert!(!limit.take(3, now));
        assert!(limit.take(3, now + Duration::from_secs(2)));
        assert!(limit.buckets.len() <= 2);
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_burst_and_rate(gaps in proptest::collection::vec(0_u64..500, 1..200)) {
            let start = Instant::now();
            let mut limit = RateLimit::new(5, 10, 4);
            let (mut at, mut granted) = (start, 0.0);
            for gap in gaps {
                at += Duration::from_millis(gap);
                granted += f64::from(u8::from(limit.take("a", at)));
            }
            prop_assert!(granted <= 5.0 + 10.0 * at.duration_since(start).as_secs_f64() + 1e-6);
        }
    }
}
