//! Asks the endpoints of Services with a health check how they are.
//!
//! Place in the walk: beside it; picks read what is found. Must not know: how a question travels, what a finding leads to.
//!
//! Asked are endpoints that pods of this node use, on behalf of the pod that used them last: the agent has no identity of
//! its own (ADR 0031).

pub(in crate::proxy) mod rounds;
mod schedule;

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use self::rounds::{Asker, ask_in_turn};
use crate::balance::Finding;
use crate::lifecycle::Stop;
use crate::proxy::Mesh;
use crate::proxy::http::probe::{Answer, probe};
use crate::proxy::pods::ServedPod;
use crate::snapshot::Checked;
use crate::telemetry::HealthFinding;

/// Until `stop`. Cancel-safe: checks that are under way are given up.
pub async fn check_health(mesh: Arc<Mesh>, stop: Stop) {
    ask_in_turn(ByRequest(Arc::clone(&mesh)), &mesh.snapshots, stop).await;
}

/// Asks as a request of the pod would.
struct ByRequest(Arc<Mesh>);

impl ByRequest {
    /// The pod that used the Service last, if it is still served.
    fn caller(&self, checked: &Checked, by: IpAddr) -> Option<Arc<ServedPod>> {
        let snapshot = self.0.snapshots.load();
        let pod = snapshot.workload_at(by)?;
        tracing::trace!(endpoint = %checked, pod = %pod.pod_name, "asked on behalf of");
        self.0.pods.find(&pod.uid)
    }
}

impl Asker for ByRequest {
    fn question(&self, checked: &Arc<Checked>, by: IpAddr) -> Option<BoxFuture<'static, Answer>> {
        let caller = self.caller(checked, by)?;
        let (mesh, checked) = (Arc::clone(&self.0), Arc::clone(checked));
        Some(Box::pin(async move { probe(&mesh, &checked, &caller).await }))
    }

    fn found(&self, finding: Finding) {
        let finding = match finding {
            Finding::Passed => HealthFinding::Passed,
            Finding::Failed => HealthFinding::Failed,
            Finding::NoAnswer => HealthFinding::NoAnswer,
        };
        self.0.telemetry.resilience().checked(finding);
    }
}
