//! Sends copies of requests to mirrors, whose answers nobody sees.
//!
//! Place in the walk: beside a request, once its course is known and before any of it was sent. Must not know: how the
//! request itself goes on; it never waits for a mirror, and no mirror's failure is one of it.
//!
//! A copy travels as any request of the pod would: limits, mTLS and the policies of the mirror hold for it. It is sent
//! once, however often the request is tried.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::uri::{Authority, Port};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::mesh::route::Mirror;
use crate::proxy::http::body::copied::Lag;
use crate::proxy::http::body::inflow::Inflow;
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::decide::{Course, Target};
use crate::proxy::http::forward;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::plan::Caller;
use crate::proxy::http::routed::Applied;
use crate::proxy::http::tries;
use crate::proxy::pods::ServedPod;
use crate::proxy::{Ends, Mesh};
use crate::telemetry::MirrorOutcome;
use crate::transport::http::BodyError;

/// Begins the copies of a request that its route asks for and chance grants; never waits.
pub(super) fn send(caller: &Caller<'_>, course: &Course, request: &mut Request<Inflow>) {
    let mirrors = course.route.iter().flat_map(Applied::mirrors);
    for mirror in mirrors.filter(|mirror| mirror.share.includes_one(&mut rand::rng())) {
        begin(caller, course, mirror, request);
    }
}

fn begin(caller: &Caller<'_>, course: &Course, mirror: &Mirror, request: &mut Request<Inflow>) {
    let Caller {
        mesh,
        source,
        ends,
        ledger,
    } = *caller;
    let snapshot = mesh.snapshots.load();
    let upstream = snapshot.target(&source.pod.workload, &mirror.target);
    let (Some(upstream), Some(authority)) = (upstream, shadow(&course.authority)) else {
        return mesh.telemetry.resilience().mirrored(MirrorOutcome::Failed);
    };
    let Ok(permit) = Arc::clone(&source.mirrors).try_acquire_owned() else {
        return mesh.telemetry.resilience().mirrored(MirrorOutcome::Crowded);
    };
    forward::identify(request.headers_mut());
    let ledger = ledger.of_copy(authority.as_str());
    let longest = Instant::now() + LONGEST;
    let deadline = course.deadline.map_or(longest, |deadline| deadline.min(longest));
    let body = request.body_mut().copy();
    let copy = Copy {
        mesh: Arc::clone(mesh),
        source: Arc::clone(source),
        ends,
        lag: body.lag(),
        request: copy_of(request, Upload::Copied(Inflow::new(body, Arc::clone(&ledger)))),
        ledger,
        course: Course {
            target: Target::Upstream(Arc::clone(upstream), None),
            authority,
            route: None,
            deadline: Some(deadline),
        },
        deadline,
    };
    source.tasks.spawn("mirror", async move {
        copy.run().await;
        drop(permit);
    });
}

fn copy_of(request: &Request<Inflow>, body: Upload) -> Request<Upload> {
    let mut copy = Request::new(body);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// One copy on its way.
struct Copy {
    mesh: Arc<Mesh>,
    source: Arc<ServedPod>,
    ends: Ends,
    ledger: Arc<Ledger>,
    course: Course,
    request: Request<Upload>,
    lag: Arc<Lag>,
    deadline: Instant,
}

impl Copy {
    async fn run(self) {
        let Self {
            mesh,
            source,
            ends,
            ledger,
            course,
            request,
            lag,
            deadline,
        } = self;
        let caller = Caller {
            mesh: &mesh,
            source: &source,
            ends,
            ledger: &ledger,
        };
        let delivered = timeout_at(deadline, Box::pin(deliver(&caller, course, request))).await;
        let outcome = match delivered {
            Ok(Ok(())) => MirrorOutcome::Answered,
            _ if lag.is_too_much() => MirrorOutcome::Behind,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a copy of a request was not answered");
                MirrorOutcome::Failed
            }
            Err(_elapsed) => MirrorOutcome::Failed,
        };
        mesh.telemetry.resilience().mirrored(outcome);
    }
}

/// Sends a copy, and reads its answer to the end so that the connection can be used again.
async fn deliver(caller: &Caller<'_>, course: Course, request: Request<Upload>) -> Result<(), BodyError> {
    let answered = tries::once(caller, course, request).await;
    let mut response = answered.inspect_err(|refusal| caller.ledger.refused(refusal))?;
    while let Some(frame) = response.body_mut().frame().await {
        drop(frame?);
    }
    Ok(())
}

/// As Envoy names the host of a copy, so that its application and its logs tell it from a request: `shop:80` becomes
/// `shop-shadow:80`. An IPv6 address stays what it is.
fn shadow(authority: &Authority) -> Option<Authority> {
    let host = authority.host();
    if host.starts_with('[') {
        return Some(authority.clone());
    }
    let port = authority.port();
    let port = port.as_ref().map(Port::as_str);
    let named = match port {
        Some(port) => format!("{host}-shadow:{port}"),
        None => format!("{host}-shadow"),
    };
    named.parse().ok()
}

/// A copy may take as long, where its route allows more: Envoy's own limit of a route.
const LONGEST: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_host_says_that_it_is_one() {
        for (authority, expected) in [
            ("shop", "shop-shadow"),
            ("shop.ns.svc:80", "shop.ns.svc-shadow:80"),
            ("10.0.0.1:80", "10.0.0.1-shadow:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(shadow(&authority.parse().unwrap()).unwrap(), expected);
        }
    }
}
