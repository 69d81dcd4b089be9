//! A token bucket: full at the start, refilled when it is asked.
//!
//! Place in the walk: the innermost step of a limit. Must not know: clocks, whose bucket it is.
//!
//! Tokens are counted in credits, of which one comes each nanosecond for each request of the rate: so many that nothing is
//! rounded, whatever the unit.

use std::time::{Duration, Instant};

use crate::mesh::policy::rate_limit::LocalLimit;

/// How fast tokens come, and how many fit in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Credits of a nanosecond.
    requests: u128,
    /// Among so many they are divided.
    among: u128,
    /// Credits of a token.
    token: u128,
    /// Credits that fit in.
    full: u128,
}

impl Rate {
    pub(super) fn new(limit: &LocalLimit) -> Self {
        let token = limit.unit.duration().as_nanos();
        Self {
            requests: limit.requests.get().into(),
            among: 1,
            token,
            full: u128::from(limit.burst.get()) * token,
        }
    }

    /// What each of `callers` has to itself: its part of all that comes, and of half of the burst, at least one token.
    pub(super) fn share(&self, callers: usize) -> Self {
        let among = u128::try_from(callers).unwrap_or(u128::MAX).max(1);
        Self {
            among,
            full: (self.full / 2 / among).max(self.token),
            ..*self
        }
    }

    /// How long an empty bucket takes to be full.
    pub(super) fn fills_in(&self) -> Duration {
        self.time(self.full)
    }

    /// The credits that come in `elapsed`; what does not make a whole one is lost.
    fn earned(&self, elapsed: Duration) -> u128 {
        elapsed.as_nanos().saturating_mul(self.requests) / self.among
    }

    /// How long `credit` takes to come.
    fn time(&self, credit: u128) -> Duration {
        let nanos = (credit * self.among).div_ceil(self.requests);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The tokens of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    credit: u128,
    /// Until when credits have come.
    at: Instant,
}

impl Bucket {
    pub(super) fn full(rate: &Rate, now: Instant) -> Self {
        Self {
            credit: rate.full,
            at: now,
        }
    }

    /// Puts in what has come since it was last asked. Threads may ask in another order than they looked at the clock.
    pub(super) fn refill(&mut self, rate: &Rate, now: Instant) {
        let earned = rate.earned(now.saturating_duration_since(self.at));
        self.credit = self.credit.saturating_add(earned).min(rate.full);
        self.at = self.at.max(now);
    }

    /// How long there will be no token; `None` when there is one now.
    pub(super) fn wait(&self, rate: &Rate) -> Option<Duration> {
        (self.credit < rate.token).then(|| rate.time(rate.token - self.credit))
    }

    /// Whether there is a token besides half of what fits in.
    pub(super) fn is_plenty(&self, rate: &Rate) -> bool {
        let half = rate.full / rate.token / 2 * rate.token;
        self.credit >= half + rate.token
    }

    pub(super) fn take(&mut self, rate: &Rate) {
        self.credit = self.credit.saturating_sub(rate.token);
    }

    /// Takes a token where there is one; otherwise says how long there will be none.
    pub(super) fn ask(&mut self, rate: &Rate, now: Instant) -> Result<(), Duration> {
        self.refill(rate, now);
        match self.wait(rate) {
            None => {
                self.take(rate);
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// A token that was taken and not used.
    pub(super) fn give_back(&mut self, rate: &Rate) {
        self.credit = (self.credit + rate.token).min(rate.full);
    }
}
