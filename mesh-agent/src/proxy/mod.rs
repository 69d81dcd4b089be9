//! The walks: what happens to a connection from the moment it was captured to its last byte.
//!
//! Place in the walk: they call the other rooms in order: capture, identity, detect, policy, route, balance,
//! transport, telemetry. Must not know: eBPF, where facts come from.

mod affinity;
mod approval;
mod arrival;
mod backend;
mod breaker;
mod conduct;
mod departing;
mod dns;
mod health;
pub mod hop;
mod http;
mod inbound;
mod live;
mod outbound;
mod pods;
pub mod refusal;
mod session;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod tunnel;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::capture::dns::DnsListeners;
use crate::capture::door::{Accepted, Captured, Door};
use crate::capture::listeners::PodListeners;
use crate::capture::{Direction, Leaving, PodHost};
use crate::detect::Prefixed;
use crate::dns::Zone;
use crate::identity::{BackendClients, Certificates, NodeFiles};
use crate::lifecycle::{Tasks, seldom};
use crate::mesh::workload::WorkloadUid;
use crate::pod::LocalPod;
use crate::proxy::dns::PodDns;
use crate::proxy::http::body::held::Held;
use crate::proxy::pods::{
    Handshakes, MAX_CHECKS, MAX_CONNECTIONS, MAX_MIRRORS, MAX_REQUESTS, ServedPod, ServedPods,
};
use crate::snapshot::SnapshotCell;
use crate::telemetry::{self, PeerLabels, Telemetry};
use crate::transport::ByteStream;
use crate::transport::handshakes::Workshop;
use crate::transport::pool::HttpPool;

pub use self::departing::watch_departures;
pub use self::health::check_health;
pub use self::http::explain;

/// Everything a walk needs besides the connection.
#[derive(Debug)]
pub struct Mesh {
    /// What is known of the mesh.
    pub snapshots: Arc<SnapshotCell>,
    /// Certificates of the pods of this node.
    pub certificates: Arc<Certificates>,
    /// Where what happened is told.
    pub telemetry: Telemetry,
    /// Limits and names.
    pub settings: ProxySettings,
    backends: BackendClients,
    pods: ServedPods,
    workshop: Workshop,
    tasks: Tasks,
}

/// Limits and names of the data path.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// The node that this agent serves (`spec.nodeName`).
    pub node: Arc<str>,
    /// How long the first bytes are waited for on a port whose protocol nobody declared.
    pub detect_timeout: Duration,
    /// How long a TCP connect, and then a TLS handshake, may take.
    pub connect_timeout: Duration,
    /// How long a TCP connection may be silent in both directions (Envoy's and Istio's default: 1 h).
    pub idle_timeout: Duration,
    /// How long what is under way to an endpoint that goes away may go on.
    pub endpoint_drain: Duration,
    /// Handshakes that a pod may begin a second, in each direction.
    pub handshake_rate: NonZeroU32,
    /// What is answered to captured DNS questions.
    pub zone: Zone,
    /// The file of roots that the node believes: for applications that speak TLS, where their policy says so.
    pub root_bundle: PathBuf,
    /// The files that policies may name for them.
    pub tls_files: NodeFiles,
}

impl Mesh {
    /// Ties the parts together; handshakes are computed on `workshop`. Pods are served once [`PodHost::joined`] is called.
    pub fn new(
        snapshots: Arc<SnapshotCell>,
        certificates: Arc<Certificates>,
        telemetry: Telemetry,
        settings: ProxySettings,
        workshop: Handle,
        tasks: Tasks,
    ) -> Self {
        Self {
            snapshots,
            certificates,
            telemetry,
            backends: BackendClients::new(&settings.root_bundle, settings.tls_files.clone()),
            settings,
            pods: ServedPods::default(),
            workshop: Workshop::new(workshop, tasks.elsewhere()),
            tasks,
        }
    }

    /// The TLS that is spoken with applications, for whoever asks how it is.
    pub fn backends(&self) -> &BackendClients {
        &self.backends
    }

    /// Closes every pooled connection as soon as it is idle; called once, when the agent stops.
    pub fn close_pools(&self) {
        for served in self.pods.all() {
            served.pool.close();
        }
    }

    /// Closes pooled connections that nobody uses; called every second.
    pub fn sweep_pools(&self) {
        for served in self.pods.all() {
            served.pool.sweep();
        }
    }
}

/// The side of the kernel seam that serves pods.
#[derive(Debug, Clone)]
pub struct Proxy {
    mesh: Arc<Mesh>,
    data: Handle,
}

impl Proxy {
    /// Serves pods with `mesh` on the runtime `data`.
    pub fn new(mesh: Arc<Mesh>, data: Handle) -> Self {
        Self { mesh, data }
    }
}

impl PodHost for Proxy {
    fn joined(&self, pod: LocalPod, listeners: PodListeners) -> io::Result<()> {
        let _on_data = self.data.enter();
        let tasks = self.mesh.tasks.fair_child();
        let doors = listeners.into_doors(&pod)?;
        let served = Arc::new(ServedPod {
            labels: Arc::new(PeerLabels::of(&pod.workload)),
            pod,
            pool: HttpPool::new(tasks.clone()),
            tasks,
            cut: CancellationToken::new(),
            leaving: CancellationToken::new(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            held: Held::default(),
            handshakes: Handshakes::new(self.mesh.settings.handshake_rate, &self.mesh.workshop),
            checks: Semaphore::new(MAX_CHECKS),
            bodies: Semaphore::new(MAX_CHECKS),
            mirrors: Arc::new(Semaphore::new(MAX_MIRRORS)),
            dns: PodDns::default(),
        });
        if let Some(before) = self.mesh.pods.insert(&served) {
            before.retire();
        }
        for door in doors {
            let (mesh, served) = (Arc::clone(&self.mesh), Arc::clone(&served));
            let tasks = served.tasks.clone();
            tasks.spawn("accept", async move { accept(&mesh, &served, &door).await });
        }
        Ok(())
    }

    fn resolve(&self, uid: &WorkloadUid, listeners: Option<DnsListeners>) {
        let _on_data = self.data.enter();
        if let Some(served) = self.mesh.pods.find(uid) {
            served.dns.set(&self.mesh, &served, listeners);
        }
    }

    fn left(&self, uid: &WorkloadUid, why: Leaving) {
        let Some(served) = self.mesh.pods.remove(uid) else {
            return;
        };
        served.retire();
        if why == Leaving::Gone {
            served.cut.cancel();
        }
    }
}

async fn accept(mesh: &Arc<Mesh>, served: &Arc<ServedPod>, door: &Door) {
    let stop = served.tasks.stop();
    loop {
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            () = stop.requested() => break,
        };
        take(mesh, served, door.direction(), accepted);
    }
    for accepted in door.waiting() {
        take(mesh, served, door.direction(), accepted);
    }
}

fn take(mesh: &Arc<Mesh>, served: &Arc<ServedPod>, direction: Direction, accepted: Accepted) {
    match accepted {
        Accepted::Captured(captured) => serve(mesh, served, captured),
        Accepted::Stray(stray) => {
            tracing::debug!(%stray, pod = %served.pod.workload.pod_name, "connection closed");
            mesh.telemetry.mesh().uncaptured(counted(direction));
        }
    }
}

fn counted(direction: Direction) -> telemetry::Direction {
    match direction {
        Direction::Outbound => telemetry::Direction::Outbound,
        Direction::Inbound => telemetry::Direction::Inbound,
    }
}

fn serve(mesh: &Arc<Mesh>, served: &Arc<ServedPod>, captured: Captured) {
    let direction = captured.direction;
    mesh.telemetry.mesh().captured(counted(direction));
    let Ok(permit) = Arc::clone(&served.connections).try_acquire_owned() else {
        served.crowded_by(mesh, counted(direction), "connections");
        return captured.stream.reset_on_close();
    };
    let (mesh, pod) = (Arc::clone(mesh), Arc::clone(served));
    let cut = served.cut.clone();
    match direction {
        Direction::Outbound => served.tasks.spawn("outbound", async move {
            until(cut, outbound::serve(mesh, pod, captured)).await;
            drop(permit);
        }),
        Direction::Inbound => served.tasks.spawn("inbound", async move {
            until(cut, inbound::serve(mesh, pod, captured)).await;
            drop(permit);
        }),
    }
}

/// Serves a connection, until it is cut.
async fn until(cut: CancellationToken, serving: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = seldom(cut.cancelled()) => {}
        () = serving => {}
    }
}

/// The two ends of a captured connection.
#[derive(Debug, Clone, Copy)]
struct Ends {
    /// The application (outbound) or the remote client (inbound).
    client: SocketAddr,
    /// Where it wanted to go.
    original: SocketAddr,
}

impl<S: ByteStream> ByteStream for Prefixed<S> {
    fn reset_on_close(&self) {
        self.inner().reset_on_close();
    }

    fn proved_until(&self) -> Option<SystemTime> {
        self.inner().proved_until()
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        self.inner().revoked()
    }
}
