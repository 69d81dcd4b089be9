//! What a Service does about endpoints that are slow or gone, in words.
//!
//! Place in the walk: what `tries` decides for a request, without sending it. Must not know: which rule led here.

use std::time::Instant;

use http::Method;

use super::Trip;
use super::report::{Outcome, Verdict, Way};
use crate::mesh::fallback::{FallbackOn, FallbackTo};
use crate::mesh::hedge::Hedge;
use crate::proxy::http::decide::Target;
use crate::proxy::http::tries::{is_raced, is_unreachable};
use crate::proxy::refusal::Refusal;
use crate::snapshot::Upstream;

impl Trip<'_> {
    /// Says what the Service behind `way` asks for.
    pub(super) fn tell_resilience(&self, target: &Target, method: &Method, way: &mut Way) {
        let Target::Upstream(upstream, _) = target else {
            return;
        };
        let is_allowed = |hedge: &Hedge| is_raced(hedge, method, self.is_grpc, target);
        let hedge = upstream.hedge();
        way.hedge = hedge.map(|hedge| of_hedge(upstream, hedge, is_allowed(hedge)));
        way.fallback = upstream.fallback().map(|fallback| {
            let on = fallback.on.iter().map(|on| match on {
                FallbackOn::Unreachable => "no endpoint answers",
                FallbackOn::GatewayError => "the answer is a gateway's error",
            });
            let on: Vec<_> = on.collect();
            format!("{} when {}", of_fallback(&fallback.to), on.join(" or "))
        });
    }

    /// What becomes of a request that is refused so, where something else answers instead.
    pub(super) fn fallen_back(&self, target: &Target, refusal: &Refusal) -> Option<Verdict> {
        let Target::Upstream(upstream, _) = target else {
            return None;
        };
        let fallback = upstream.fallback()?;
        if !fallback.on.contains(&FallbackOn::Unreachable) || !is_unreachable(refusal) {
            return None;
        }
        let told = Verdict {
            flag: Some(refusal.flag().as_str().to_owned()),
            details: Some(format!("fallback{{{}}}", refusal.reason())),
            reason: format!("{refusal}: {} instead", of_fallback(&fallback.to)),
            ..Verdict::default()
        };
        match &fallback.to {
            FallbackTo::Service { service, port } => {
                self.snapshot
                    .upstream(&self.source.pod.workload, service, *port)?;
                Some(told)
            }
            FallbackTo::Answer(answer) if self.is_grpc => Some(Verdict {
                outcome: Outcome::Answered,
                status: Some(200),
                grpc_status: Some(answer.grpc_status?),
                ..told
            }),
            FallbackTo::Answer(answer) => Some(Verdict {
                outcome: Outcome::Answered,
                status: Some(answer.status.as_u16()),
                ..told
            }),
        }
    }
}

fn of_hedge(upstream: &Upstream, hedge: &Hedge, is_allowed: bool) -> String {
    if !is_allowed {
        return "no: such a request is never sent twice".to_owned();
    }
    let now = Instant::now();
    match upstream.slow_after(hedge, now) {
        Some(slow) => format!(
            "another endpoint is asked too after {} ms, {} of them at most",
            slow.as_millis(),
            hedge.max_attempts
        ),
        None => format!(
            "not yet: {} of {} answers of late are known",
            upstream.breakers().vitals().latency().known(),
            hedge.min_samples
        ),
    }
}

fn of_fallback(to: &FallbackTo) -> String {
    match to {
        FallbackTo::Service { service, port } => format!("Service {service}:{port} answers"),
        FallbackTo::Answer(answer) => format!("the agent answers with {}", answer.status.as_u16()),
    }
}
