//! Outlier detection: endpoints that fail are left out for a while, and for longer each time.
//!
//! Place in the walk: told the outcome of each request or connection; the control thread takes endpoints back. Must
//! not know: statuses, protocols.
//!
//! As Envoy does it, with one difference: one endpoint may be ejected in any upstream that has another, where Envoy
//! with its default of 10 % never ejects one of fewer than ten (ADR 0023).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::{Standing, Vitals};
use crate::mesh::traffic::{ErrorCodes, OutlierDetection};

/// What became of a request or connection, as far as it tells of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was served, or refused for a fault of the client's.
    Good,
    /// The endpoint answered with a 5xx other than a gateway's.
    ServerError,
    /// The endpoint answered with 502, 503 or 504.
    GatewayError,
    /// There was no answer: no connection, a reset, a timeout.
    LocalFailure,
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Too many 5xx in a row.
    Consecutive5xx,
    /// Too many gateway errors in a row.
    ConsecutiveGateway,
    /// Too many failures without an answer in a row.
    ConsecutiveLocal,
    /// It succeeded far less often than the others.
    SuccessRate,
}

impl Cause {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGateway,
        Self::ConsecutiveLocal,
        Self::SuccessRate,
    ];

    /// As metrics call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway",
            Self::ConsecutiveLocal => "consecutive_local",
            Self::SuccessRate => "success_rate",
        }
    }
}

/// The policy of one upstream over its endpoints.
#[derive(Debug)]
pub struct Watch {
    policy: OutlierDetection,
    vitals: Arc<Vitals>,
    endpoints: usize,
}

impl Watch {
    /// Over so many endpoints.
    pub fn new(policy: OutlierDetection, vitals: Arc<Vitals>, endpoints: usize) -> Self {
        Self {
            policy,
            vitals,
            endpoints,
        }
    }

    /// Which answers are errors, where that is another than usual.
    pub fn errors(&self) -> Option<&ErrorCodes> {
        self.policy.errors.as_ref()
    }

    /// Judges an endpoint by one outcome.
    pub fn saw(&self, standing: &Standing, outcome: Outcome, now: Instant) {
        let policy = &self.policy;
        standing.answers.fetch_add(1, Ordering::Relaxed);
        let Standing {
            server_errors,
            gateway_errors,
            local_failures,
            ..
        } = standing;
        let failed = |count: &AtomicU32, threshold: u32, cause: Cause| {
            let in_a_row = count.fetch_add(1, Ordering::Relaxed) + 1;
            if threshold > 0 && in_a_row >= threshold {
                count.store(0, Ordering::Relaxed);
                self.eject(standing, cause, now);
            }
        };
        match outcome {
            Outcome::Good => {
                standing.good.fetch_add(1, Ordering::Relaxed);
                for count in [server_errors, gateway_errors, local_failures] {
                    // Most often there is nothing to take back, and a line that nobody writes stays in all caches.
                    if count.load(Ordering::Relaxed) != 0 {
                        count.store(0, Ordering::Relaxed);
                    }
                }
            }
            Outcome::LocalFailure if policy.splits_local => {
                failed(local_failures, policy.consecutive_local, Cause::ConsecutiveLocal);
            }
            Outcome::GatewayError | Outcome::LocalFailure => {
                failed(
                    gateway_errors,
                    policy.consecutive_gateway,
                    Cause::ConsecutiveGateway,
                );
                failed(server_errors, policy.consecutive_5xx, Cause::Consecutive5xx);
            }
            Outcome::ServerError => {
                gateway_errors.store(0, Ordering::Relaxed);
                failed(server_errors, policy.consecutive_5xx, Cause::Consecutive5xx);
            }
        }
    }

    /// Takes back whose time is over, rewards good conduct, and ejects by rates. Called some times a second with all
    /// endpoints of the upstream.
    pub fn sweep<'s>(&self, standings: impl Iterator<Item = &'s Standing> + Clone, now: Instant) {
        let mut ejected = 0;
        for standing in standings.clone() {
            if let Some(since) = standing.ejected_for(now) {
                let times = standing.multiplier.load(Ordering::Relaxed);
                let term = self.policy.base_ejection.saturating_mul(times);
                if since >= term.min(self.policy.max_ejection) {
                    standing.pardon();
                } else {
                    ejected += 1;
                }
            }
        }
        self.vitals.ejected_now(ejected);
        let mut ended = self.vitals.interval_ended.lock();
        let since = ended.map(|ended| now.saturating_duration_since(ended));
        if since.is_some_and(|since| since < self.policy.interval) {
            return;
        }
        *ended = Some(now);
        drop(ended);
        if since.is_some() {
            self.end_interval(standings, now);
        }
    }

    fn end_interval<'s>(&self, standings: impl Iterator<Item = &'s Standing> + Clone, now: Instant) {
        let good = standings.clone().filter(|standing| !standing.is_ejected());
        for standing in good {
            let times = standing.multiplier.load(Ordering::Relaxed);
            standing
                .multiplier
                .store(times.saturating_sub(1), Ordering::Relaxed);
        }
        let mut rates = Vec::new();
        for standing in standings {
            let answers = standing.answers.swap(0, Ordering::Relaxed);
            let good = standing.good.swap(0, Ordering::Relaxed);
            if answers >= RATE_ANSWERS && !standing.is_ejected() {
                rates.push((f64::from(good) / f64::from(answers), standing));
            }
        }
        let Some(factor) = self.policy.success_rate_stdev_milli else {
            return;
        };
        if let Some(least) = least_rate(rates.iter().map(|(rate, _)| *rate), factor) {
            for (_, standing) in rates.iter().filter(|(rate, _)| *rate < least) {
                self.eject(standing, Cause::SuccessRate, now);
            }
        }
    }

    fn eject(&self, standing: &Standing, cause: Cause, now: Instant) {
        // Counted before it is done: of two threads that eject at once only as many succeed as there is room for.
        if standing.is_ejected() || !self.vitals.eject(cause, |ejected| self.allows(ejected)) {
            return;
        }
        let times = standing.multiplier.load(Ordering::Relaxed);
        let term = self.policy.base_ejection.saturating_mul(times);
        if term < self.policy.max_ejection.saturating_add(self.policy.base_ejection) {
            standing.multiplier.store(times + 1, Ordering::Relaxed);
        }
        // Lost against another thread it is counted twice until the next sweep.
        let _is_first = standing.eject(now);
    }

    /// Whether so many endpoints may be ejected at once.
    fn allows(&self, ejected: usize) -> bool {
        let most = usize::try_from(self.policy.max_ejected_percent).unwrap_or(usize::MAX);
        let is_within = ejected * 100 <= self.endpoints.saturating_mul(most);
        let is_first_of_several = ejected == 1 && self.endpoints > 1;
        is_within || is_first_of_several
    }
}

/// `mean - factor * stdev` of success rates; `None` for too few to compare.
fn least_rate(rates: impl ExactSizeIterator<Item = f64> + Clone, factor_milli: u32) -> Option<f64> {
    let count = u32::try_from(rates.len())
        .ok()
        .filter(|count| *count >= RATE_ENDPOINTS)?;
    let mean = rates.clone().sum::<f64>() / f64::from(count);
    let variance = rates.map(|rate| (rate - mean).powi(2)).sum::<f64>() / f64::from(count);
    Some(mean - variance.sqrt() * f64::from(factor_milli) / 1000.0)
}

/// Endpoints with fewer answers in an interval are not compared (Envoy's default).
const RATE_ANSWERS: u32 = 100;
/// Fewer endpoints are not compared (Envoy's default).
const RATE_ENDPOINTS: u32 = 5;

#[cfg(test)]
mod tests;
