//! Counts a request that reaches a pod of this node: the limits of this node first, then services that count for the whole
//! cluster.
//!
//! Place in the walk: the last question before the request is sent to the application, after all that may refuse it for another
//! reason. Must not know: how tokens are counted, the protocol of such services.

use std::sync::Arc;
use std::time::Instant;

use http::Request;
use tokio::time::{Instant as Deadline, timeout_at};

use crate::external::quota::{self, Answer, Reply};
use crate::policy::authentication::Claims;
use crate::policy::rate_limit::{Asked, Exceeded, Quota};
use crate::proxy::Mesh;
use crate::proxy::arrival::{Arrival, Visit};
use crate::proxy::http::admission::check::{self, AskError, Called};
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::path;
use crate::proxy::http::plan::Plan;
use crate::proxy::refusal::{Limited, Limiter, Refusal};
use crate::snapshot::Snapshot;
use crate::telemetry::QuotaResult;
use crate::transport::pool::Wire;

/// Counts `request` at the pod of this node that its plan reaches, if it reaches one, and refuses what is too much.
///
/// Waits as long as the timeouts of the limits and the route's deadline allow. Cancel-safe: what is being asked is given up.
pub(in crate::proxy::http) async fn admit(
    mesh: &Arc<Mesh>,
    request: &mut Request<Upload>,
    plan: &mut Plan,
) -> Result<(), Refusal> {
    let quotas = count(mesh, request, plan)?;
    if quotas.is_empty() {
        return Ok(());
    }
    Box::pin(ask(mesh, request, plan, quotas)).await
}

/// Takes tokens for `request`, or refuses it; what is returned must be asked besides.
fn count(mesh: &Mesh, request: &Request<Upload>, plan: &Plan) -> Result<Vec<Quota>, Refusal> {
    let Some(visit) = &plan.visit else {
        // Another node's agent counts it.
        return Ok(Vec::new());
    };
    let snapshot = mesh.snapshots.load();
    let arrival = visit.arrival();
    let Some(limits) = arrival.limits(&snapshot) else {
        return Ok(Vec::new());
    };
    let asked = asked(&arrival, &snapshot, request, plan.token.as_ref());
    let counted = limits.count(&asked, Instant::now());
    let metrics = mesh.telemetry.mesh();
    metrics.rate_limit_crowded(counted.crowded);
    if let Some(would_deny) = counted.trial {
        metrics.rate_limit_tried(would_deny);
    }
    if let Some(exceeded) = counted.exceeded {
        let refusal = Refusal::RateLimited(Box::new(limited(exceeded)));
        arrival.refused(mesh, &refusal);
        return Err(refusal);
    }
    // Nobody is asked whether somebody may be asked: that might go round for ever.
    Ok(if asked.path == quota::METHOD {
        Vec::new()
    } else {
        counted.ask
    })
}

/// What limits are asked about a request that arrives.
pub(in crate::proxy::http) fn asked<'r>(
    arrival: &'r Arrival<'_>,
    snapshot: &'r Snapshot,
    request: &'r Request<impl Sized>,
    token: Option<&'r Claims>,
) -> Asked<'r> {
    let path = request.uri().path();
    Asked {
        port: arrival.addr.port(),
        source: arrival.proven(snapshot),
        method: request.method().as_str(),
        path,
        other_readings: path::readings(path).skip(1).collect(),
        headers: request.headers(),
        token,
    }
}

/// Seconds are rounded up: who comes back then finds a token.
fn limited(exceeded: Exceeded) -> Limited {
    let wait = exceeded.wait;
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Limited {
        by: Limiter::Node,
        retry_after_s: Some(seconds),
        grpc: exceeded.grpc,
        reply: Reply::default(),
    }
}

/// Asks each service in turn, and changes request and response as it says.
async fn ask(
    mesh: &Arc<Mesh>,
    request: &mut Request<Upload>,
    plan: &mut Plan,
    quotas: Vec<Quota>,
) -> Result<(), Refusal> {
    for quota in quotas {
        let Some(visit) = &plan.visit else {
            return Err(Refusal::NotEnrolled);
        };
        let (result, outcome) = match answer(mesh, visit, plan, &quota).await {
            Ok(Answer::Within(changes)) => (QuotaResult::Allowed, Ok(changes)),
            Ok(Answer::Over(reply)) => {
                let limited = Limited {
                    by: Limiter::Service,
                    retry_after_s: reply.retry_after_s,
                    grpc: quota.grpc,
                    reply,
                };
                (QuotaResult::Denied, Err(Refusal::RateLimited(Box::new(limited))))
            }
            Err(error) => {
                tracing::debug!(
                    %error,
                    cause = ?error,
                    pod = %visit.pod.pod.workload.pod_name,
                    service = %quota.service.target.host(),
                    "a rate limit service gave no answer"
                );
                if quota.service.fails_open {
                    (QuotaResult::FailedOpen, Ok(quota::Changes::default()))
                } else {
                    (QuotaResult::FailedClosed, Err(Refusal::RateLimiterFailed))
                }
            }
        };
        mesh.telemetry.mesh().quota_asked(result);
        let changes = outcome.inspect_err(|refusal| visit.arrival().refused(mesh, refusal))?;
        for change in &changes.request {
            change.apply(request.headers_mut());
        }
        plan.on_response.extend(changes.response);
    }
    Ok(())
}

async fn answer(mesh: &Arc<Mesh>, visit: &Visit, plan: &Plan, quota: &Quota) -> Result<Answer, AskError> {
    let service = &quota.service;
    // One wait for both, since it is the request that waits.
    let limit = Deadline::now() + service.timeout;
    let limit = plan.deadline.map_or(limit, |deadline| deadline.min(limit));
    let asking = async {
        // The semaphore is never closed; if it were, no permit would be no limit.
        let _permit = visit.pod.checks.acquire().await.ok();
        let called = Called {
            target: &service.target,
            port: service.port,
            spoken: Wire::H2,
        };
        let question = quota::question(service, &quota.descriptors)?;
        let (answer, trailers) = check::send(mesh, &visit.pod, called, question).await?;
        Ok(quota::answer(&answer, trailers.as_ref())?)
    };
    timeout_at(limit, Box::pin(asking))
        .await
        .unwrap_or(Err(AskError::TimedOut))
}
