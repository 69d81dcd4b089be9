//! What the agent knows: readings of the source become snapshots, and certificates are asked for. It needs no node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use crate::control::{Reading, Source, SourceError, conditions};
use crate::identity::Certificates;
use crate::mesh::facts::Rejection;
use crate::snapshot::{Snapshot, SnapshotCell, SnapshotSettings};
use crate::status::{OutsidePod, StatusBoard};
use crate::telemetry::Telemetry;

/// The source, and what comes of it.
pub(super) struct Knowledge {
    pub(super) source: Box<dyn Source>,
    pub(super) settings: SnapshotSettings,
    pub(super) snapshots: Arc<SnapshotCell>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) telemetry: Telemetry,
    pub(super) board: StatusBoard,
}

/// What a reading says beside the snapshot that it became.
#[derive(Debug)]
pub(super) struct Learned {
    /// Namespaces that take part.
    pub(super) meshed: BTreeSet<Arc<str>>,
    /// Of a source that reads files.
    pub(super) digest: Option<String>,
}

impl Knowledge {
    /// Publishes what was read; `None` where it cannot be used, which is told.
    pub(super) fn learn(&self, reading: Result<Reading, SourceError>) -> Option<Learned> {
        let Reading {
            facts,
            mut rejections,
            digest,
            ..
        } = match reading {
            Ok(reading) => reading,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "configuration cannot be read; the last one stays in force");
                self.board.source_failed(error.to_string());
                return None;
            }
        };
        let previous = self.snapshots.load();
        let (snapshot, contradictions) = Snapshot::build(&facts, &self.settings, Some(&previous));
        rejections.extend(contradictions);
        rejections.sort();
        rejections.dedup();
        report(&rejections, &self.board.rejections());
        let version = snapshot.version();
        let kinds = rejections.iter().map(|rejection| kind_of(&rejection.object));
        self.telemetry
            .mesh()
            .config_published(version, SystemTime::now(), kinds);
        tracing::info!(
            version,
            pods = snapshot.local().len(),
            rejections = rejections.len(),
            "new configuration"
        );
        let policies = conditions::of_rate_limits(&facts.rate_limit_policies, &rejections);
        self.board.published(rejections, policies);
        let workloads = facts.workloads.iter().map(|workload| &**workload);
        let node = &self.settings.node;
        self.board
            .outside(OutsidePod::all_of(node, &facts.meshed_namespaces, workloads));
        self.certificates
            .want(snapshot.local().iter().map(|pod| pod.identity.clone()));
        self.snapshots.publish(snapshot);
        Some(Learned {
            meshed: facts.meshed_namespaces,
            digest,
        })
    }
}

/// Whether there are the certificates of all that was learned; waits for them, for some seconds at most. Cancel-safe.
pub(super) async fn are_there(certificates: &Certificates) -> bool {
    timeout(CERTIFICATE_PATIENCE, certificates.ready()).await.is_ok()
}

/// Says each rejection once, when it appears.
fn report(now: &[Rejection], before: &[Rejection]) {
    for rejection in now.iter().filter(|rejection| !before.contains(rejection)) {
        tracing::warn!(
            origin = rejection.origin,
            object = rejection.object,
            field = rejection.field,
            reason = rejection.reason,
            "object or field left out"
        );
    }
}

/// The kind of a rejected object as a metric label: from a closed set, whatever the manifest said.
fn kind_of(object: &str) -> &'static str {
    let kind = object.split(' ').next().unwrap_or_default();
    KINDS.into_iter().find(|known| *known == kind).unwrap_or("other")
}

const KINDS: [&str; 16] = [
    "Namespace",
    "Node",
    "Pod",
    "Service",
    "EndpointSlice",
    "HTTPRoute",
    "GRPCRoute",
    "PeerAuthentication",
    "AuthorizationPolicy",
    "RequestAuthentication",
    "RateLimitPolicy",
    "DestinationRule",
    "XBackendTrafficPolicy",
    "BackendTLSPolicy",
    "ConfigMap",
    "List",
];
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(3);
