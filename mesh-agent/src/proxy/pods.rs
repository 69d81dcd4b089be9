//! The pods of this node that the agent serves, and what belongs to each alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Tasks;
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::pod::LocalPod;
use crate::proxy::Mesh;
use crate::proxy::dns::PodDns;
use crate::proxy::http::body::held::Held;
use crate::snapshot::Snapshot;
use crate::telemetry::{Direction, PeerLabels};
use crate::transport::handshakes::{HandshakeLimit, TooMany, Workshop};
use crate::transport::pool::HttpPool;

/// A pod that joined, with its own connections and tasks: nothing of it is shared with its neighbours.
#[derive(Debug)]
pub struct ServedPod {
    /// How to reach into it.
    pub pod: LocalPod,
    /// What metrics call it.
    pub labels: Arc<PeerLabels>,
    /// Connections made for it (to other destinations) and to it (deliveries).
    pub pool: HttpPool,
    /// Everything that runs for it; stopped when it leaves.
    pub tasks: Tasks,
    /// Ends its connections at once, when nobody is left to end them.
    pub cut: CancellationToken,
    /// Cancelled once the pod is going away: clients are told, and what is under way goes on.
    pub(super) leaving: CancellationToken,
    /// One permit for each captured connection, so that a pod, or who dials it, takes no descriptors from its
    /// neighbours.
    pub connections: Arc<Semaphore>,
    /// One permit for each HTTP request that is under way, so that streams without number take no memory from them either.
    pub(super) requests: Arc<Semaphore>,
    /// What bodies hold for which nobody asks.
    pub(super) held: Held,
    /// Its mTLS handshakes, so that no storm of them makes its neighbours wait.
    pub(super) handshakes: Handshakes,
    /// One permit for each request about which somebody is asked: what an authorizer that is slow can make it hold.
    pub(super) checks: Semaphore,
    /// One permit for each body that is read to be shown to an authorizer; more wait, and are refused in the end.
    pub(super) bodies: Semaphore,
    /// One permit for each copy of a request that is under way to a mirror; there are no more copies then.
    pub(super) mirrors: Arc<Semaphore>,
    /// Its DNS, where that is captured.
    pub(super) dns: PodDns,
}

/// How many handshakes a pod may have, each way, and where they are computed.
#[derive(Debug)]
pub(super) struct Handshakes {
    pub(super) workshop: Workshop,
    pub(super) inbound: HandshakeLimit,
    pub(super) outbound: HandshakeLimit,
}

impl Handshakes {
    /// `rate` a second each way, in turns with those of other pods at `workshop`.
    pub(super) fn new(rate: NonZeroU32, workshop: &Workshop) -> Self {
        let now = Instant::now();
        Self {
            workshop: workshop.fair_share(),
            inbound: HandshakeLimit::new(rate, now),
            outbound: HandshakeLimit::new(rate, now),
        }
    }
}

/// Captured connections that one pod may have at a time, both directions together; more are reset and counted.
pub(super) const MAX_CONNECTIONS: usize = 16_384;

/// HTTP requests of one pod, and to it, that may be under way at a time, both directions together; more are answered with
/// 503 and counted. What their bodies may hold together has a bound of its own.
pub(super) const MAX_REQUESTS: usize = 16_384;

/// Requests of one pod about which an authorizer is asked at a time, and bodies that are read for one; more wait.
pub(super) const MAX_CHECKS: usize = 1024;

/// Copies of requests of one pod that are under way to mirrors at a time.
pub(super) const MAX_MIRRORS: usize = 1024;

impl ServedPod {
    /// Nothing new is accepted, idle connections close, those in use end by themselves.
    pub(super) fn retire(&self) {
        self.tasks.request_stop();
        self.pool.close();
    }

    /// The pod as `snapshot` knows it: labels may have changed since it joined.
    pub(super) fn as_known<'s>(&'s self, snapshot: &'s Snapshot) -> &'s Workload {
        snapshot
            .workload(&self.pod.workload.uid)
            .unwrap_or(&self.pod.workload)
    }

    /// Counts a handshake that was not begun.
    pub(super) fn crowded(&self, mesh: &Mesh, direction: Direction, too_many: TooMany) {
        let snapshot = mesh.snapshots.load();
        let labels = snapshot.labels(self.as_known(&snapshot));
        tracing::debug!(pod = %self.pod.workload.pod_name, reason = too_many.as_str(), "no handshake is begun");
        mesh.telemetry
            .mesh()
            .handshake_refused(direction, &labels, too_many.as_str());
    }

    /// Counts what one pod has too much of.
    pub(super) fn crowded_by(&self, mesh: &Mesh, direction: Direction, limit: &'static str) {
        let snapshot = mesh.snapshots.load();
        let labels = snapshot.labels(self.as_known(&snapshot));
        tracing::debug!(pod = %self.pod.workload.pod_name, limit, "the pod has too many");
        mesh.telemetry.mesh().pod_limit_refused(direction, &labels, limit);
    }

    /// `client` in the address family of `to`, so that the application can be shown it: the pod's own address of
    /// that family when it has one.
    pub fn client_like(&self, client: SocketAddr, to: SocketAddr) -> SocketAddr {
        if client.is_ipv4() == to.is_ipv4() {
            return client;
        }
        self.pod
            .addr_like(to.ip())
            .map_or(client, |addr| SocketAddr::new(addr, client.port()))
    }
}

/// The served pods by uid; read on every walk, written when a pod joins or leaves.
#[derive(Debug, Default)]
pub(super) struct ServedPods {
    by_uid: ArcSwap<HashMap<WorkloadUid, Arc<ServedPod>>>,
}

impl ServedPods {
    /// The pod with this uid.
    pub(super) fn find(&self, uid: &WorkloadUid) -> Option<Arc<ServedPod>> {
        self.by_uid.load().get(uid).map(Arc::clone)
    }

    /// Adds a pod; one of the same uid is replaced and returned.
    pub(super) fn insert(&self, pod: &Arc<ServedPod>) -> Option<Arc<ServedPod>> {
        let uid = &pod.pod.workload.uid;
        let before = self.by_uid.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            pods.insert(uid.clone(), Arc::clone(pod));
            pods
        });
        before.get(uid).map(Arc::clone)
    }

    /// Takes a pod out.
    pub(super) fn remove(&self, uid: &WorkloadUid) -> Option<Arc<ServedPod>> {
        let before = self.by_uid.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            pods.remove(uid);
            pods
        });
        before.get(uid).map(Arc::clone)
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> Vec<Arc<ServedPod>> {
        self.by_uid.load().values().map(Arc::clone).collect()
    }
}
