//! Endpoints that go away while connections to them are open, seen from both ends.
//!
//! Place in the walk: beside it, once for each new snapshot. Must not know: how a snapshot learned it.
//!
//! The caller's agent closes what is idle at once and gives what is under way its time; no pick leads there any more. The
//! agent of a pod that goes away tells those who have connections to it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Response, StatusCode, Version};
use tokio::time::sleep;

use crate::lifecycle::Stop;
use crate::mesh::leaving::Leaving;
use crate::proxy::Mesh;
use crate::proxy::http::Side;
use crate::snapshot::Snapshot;

/// Until `stop`, at each new snapshot. Cancel-safe.
pub async fn watch_departures(mesh: Arc<Mesh>, stop: Stop) {
    let mut published = mesh.snapshots.subscribe();
    let mut before = Leaving::default();
    loop {
        before = mesh.part(&mesh.snapshots.load(), &before);
        tokio::select! {
            () = stop.requested() => return,
            changed = published.changed() => if changed.is_err() {
                // Nothing is published any more.
                return stop.requested().await;
            },
        }
    }
}

impl Mesh {
    /// Lets go of who goes away and did not `before`; who does now.
    fn part(&self, snapshot: &Snapshot, before: &Leaving) -> Leaving {
        let now = snapshot.leaving();
        let newly = Arc::new(now.since(before));
        for served in self.pods.all() {
            if !newly.is_empty() {
                served.pool.leave(&newly, self.settings.endpoint_drain);
            }
            if snapshot.is_leaving(&served.pod.workload.uid) && !served.leaving.is_cancelled() {
                tracing::debug!(pod = %served.pod.workload.pod_name, "pod is going away: its clients are told");
                served.leaving.cancel();
            }
        }
        now.clone()
    }
}

/// When a client of HTTP/2 is to be told to open no more streams: the agent stops, or the pod that it came to goes away.
/// Whoever comes to such a pod afterwards is served: told at once, it would come again and again.
pub(super) fn told_to_end(side: &Side, stop: Stop) -> impl Future<Output = ()> + use<> {
    let leaving = match side {
        Side::Inbound { pod, .. } if !pod.leaving.is_cancelled() => Some(pod.leaving.clone()),
        Side::Inbound { .. } | Side::Outbound { .. } => None,
    };
    async move {
        match leaving {
            Some(leaving) => tokio::select! {
                () = stop.requested() => {}
                () = leaving.cancelled() => {}
            },
            None => stop.requested().await,
        }
    }
}

/// When an idle connection of HTTP/1.1 is closed: a client that sent something at the very moment of the stop would never
/// hear of it, so that there is time for one more request, whose answer [tells](tell_leaving) it to go.
pub(super) async fn let_go(stop: Stop) {
    stop.requested().await;
    sleep(LAST_REQUEST).await;
}

/// Has a client of HTTP/1.1 come back by another connection, which then leads to another pod or agent.
pub(super) fn tell_leaving<B>(side: &Side, version: Version, mut response: Response<B>) -> Response<B> {
    let (Side::Outbound { source: pod, .. } | Side::Inbound { pod, .. }) = side;
    let is_pod_leaving = matches!(side, Side::Inbound { .. }) && pod.leaving.is_cancelled();
    if (is_pod_leaving || pod.tasks.stop().is_requested())
        && version <= Version::HTTP_11
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// Many round trips, and less than what agents and pods may take to end.
const LAST_REQUEST: Duration = Duration::from_secs(1);
