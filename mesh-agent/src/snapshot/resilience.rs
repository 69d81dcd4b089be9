//! What a Service does about endpoints that are slow or gone, as its annotations say.
//!
//! Place in the walk: asked beside the choice of an endpoint, and when there is no answer. Must not know: requests.

use std::time::{Duration, Instant};

use super::services::Services;
use super::upstream::Upstream;
use crate::mesh::facts::{Facts, Rejection};
use crate::mesh::fallback::{Fallback, FallbackTo};
use crate::mesh::hedge::Hedge;
use crate::mesh::service::Service;
use crate::mesh::traffic::RetryConstraint;

impl Upstream {
    /// When a request is asked of a second endpoint too.
    pub fn hedge(&self) -> Option<&Hedge> {
        self.resilience.hedge.as_ref()
    }

    /// What answers when none of its endpoints does.
    pub fn fallback(&self) -> Option<&Fallback> {
        self.resilience.fallback.as_ref()
    }

    /// Counts a request that may be hedged.
    pub fn may_hedge(&self, hedge: &Hedge, now: Instant) {
        self.breakers().vitals().hedges().request(&share_of(hedge), now);
    }

    /// Whether one more try beside others is granted; it is counted if so.
    pub fn grants_hedge(&self, hedge: &Hedge, now: Instant) -> bool {
        self.breakers().vitals().hedges().withdraw(&share_of(hedge), now)
    }

    /// After what time a try is slow; `None` as long as too little is known.
    pub fn slow_after(&self, hedge: &Hedge, now: Instant) -> Option<Duration> {
        let latency = self.breakers().vitals().latency();
        let usual = latency.percentile(hedge.percentile, hedge.min_samples, now)?;
        Some(usual.max(hedge.min_delay))
    }

    /// An answer to a request that may be hedged took so long, or would have taken longer.
    pub fn saw_answer(&self, took: Duration, now: Instant) {
        self.breakers().vitals().latency().saw(took, now);
    }
}

/// No floor: where there are few requests, there are hardly any hedges.
fn share_of(hedge: &Hedge) -> RetryConstraint {
    RetryConstraint {
        percent: hedge.budget_percent,
        min_count: 0,
        ..RetryConstraint::default()
    }
}

/// Fallbacks that lead nowhere, and those that lead further, which nobody follows.
pub(super) fn reports<'f>(
    facts: &'f Facts,
    services: &'f Services,
) -> impl Iterator<Item = Rejection> + use<'f> {
    facts.services.iter().filter_map(|one| report(one, services))
}

fn report(one: &Service, services: &Services) -> Option<Rejection> {
    let FallbackTo::Service { service, port } = &one.resilience.fallback.as_ref()?.to else {
        return None;
    };
    let reason = match services.upstream(service, *port) {
        None => {
            format!("Service {service} with TCP port {port} is not known; for now nothing answers instead")
        }
        Some(upstream) if upstream.fallback().is_some() => {
            format!(
                "Service {service} has a fallback itself, which is not asked: one Service stands in, no further one"
            )
        }
        Some(_) => return None,
    };
    Some(
        one.meta
            .reject("metadata.annotations[mesh-agent.dev/fallback].service", reason),
    )
}
