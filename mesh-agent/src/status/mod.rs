//! What `mesh-agent status` shows of an agent or a CA: one JSON page, and its form for humans; and that of what
//! `mesh-agent explain` shows.
//!
//! Place in the walk: none; it reads what the engines know. Must not know: how any of it came about.

mod authority;
mod explanation;
mod outside;
mod text;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::admin::Page;
use crate::config::Config;
use crate::control::conditions::ObjectConditions;
use crate::control::jwks::KeyStatus;
use crate::control::kubernetes::{SourceStatus, Standing};
use crate::identity::{BackendClients, Certificates, FailingTls};
use crate::kernel::enrolment::Enrolment;
use crate::kernel::splice::{SpliceBoard, SpliceStatus};
use crate::kernel::status::EnrolmentStatus;
use crate::mesh::facts::Rejection;
use crate::privileges::Privileges;
use crate::snapshot::{Ejected, SnapshotCell, Unhealthy};

pub use self::authority::AuthorityBoard;
pub use self::explanation::explained;
pub use self::outside::OutsidePod;
pub use self::text::for_humans;

/// Gathers what the status page shows; clones share it.
#[derive(Debug, Clone)]
pub struct StatusBoard(Arc<Board>);

#[derive(Debug)]
struct Board {
    node: String,
    source: String,
    started: SystemTime,
    snapshots: Arc<SnapshotCell>,
    certificates: Arc<Certificates>,
    /// Set once the node is this agent's.
    holding: OnceLock<Holding>,
    noted: Mutex<Noted>,
}

/// What an agent has of its node.
#[derive(Debug)]
pub struct Holding {
    /// What the process may still do.
    pub privileges: Privileges,
    /// Its pods.
    pub enrolment: Arc<Mutex<Enrolment>>,
    /// Whether flows are spliced.
    pub splice: SpliceBoard,
    /// The TLS that it speaks with applications.
    pub backends: BackendClients,
}

#[derive(Debug, Default)]
struct Noted {
    rejections: Vec<Rejection>,
    policies: Vec<ObjectConditions>,
    published: Option<SystemTime>,
    digest: Option<String>,
    source_error: Option<(Instant, String)>,
    api_server: Option<Standing>,
    outside: Vec<OutsidePod>,
    direct: DirectStatus,
    keys: Vec<KeyStatus>,
    cni: Option<CniStatus>,
}

impl StatusBoard {
    /// A board over what an agent knows before it has its node.
    pub fn new(config: &Config, snapshots: &Arc<SnapshotCell>, certificates: &Arc<Certificates>) -> Self {
        Self(Arc::new(Board {
            node: config.node_name.clone(),
            source: config.source.to_string(),
            started: SystemTime::now(),
            snapshots: Arc::clone(snapshots),
            certificates: Arc::clone(certificates),
            holding: OnceLock::new(),
            noted: Mutex::default(),
        }))
    }

    /// The node is this agent's; said once.
    pub fn holds(&self, holding: Holding) {
        // A second time says nothing new.
        let _: &Holding = self.0.holding.get_or_init(|| holding);
    }

    /// A new snapshot is in force, this was left out of it, and so its policies say of themselves.
    pub fn published(&self, rejections: Vec<Rejection>, policies: Vec<ObjectConditions>) {
        let mut noted = self.0.noted.lock();
        *noted = Noted {
            rejections,
            policies,
            published: Some(SystemTime::now()),
            digest: noted.digest.take(),
            source_error: None,
            api_server: noted.api_server.take(),
            outside: std::mem::take(&mut noted.outside),
            direct: std::mem::take(&mut noted.direct),
            keys: std::mem::take(&mut noted.keys),
            cni: noted.cni.take(),
        };
    }

    /// The configuration of this digest is in force, in the kernel too.
    pub fn in_force(&self, digest: Option<String>) {
        self.0.noted.lock().digest = digest;
    }

    /// The source as a whole cannot be read.
    pub fn source_failed(&self, error: String) {
        let mut noted = self.0.noted.lock();
        let since = noted.source_error.take().map(|(since, _)| since);
        noted.source_error = Some((since.unwrap_or_else(Instant::now), error));
    }

    /// Facts come from an API server, and so its watches stand.
    pub fn watching(&self, standing: Standing) {
        self.0.noted.lock().api_server = Some(standing);
    }

    /// For how long facts may have changed unseen.
    pub fn source_age(&self) -> Duration {
        let noted = self.0.noted.lock();
        let failing = noted.source_error.as_ref();
        let age = failing.map_or(Duration::ZERO, |(since, _)| since.elapsed());
        noted
            .api_server
            .as_ref()
            .map_or(age, |standing| age.max(standing.age()))
    }

    /// The pods that are left out on purpose.
    pub fn outside(&self, outside: Vec<OutsidePod>) {
        self.0.noted.lock().outside = outside;
    }

    /// What goes past the agent now.
    pub fn direct(&self, direct: DirectStatus) {
        self.0.noted.lock().direct = direct;
    }

    /// How things stand with the CNI plugin.
    pub fn cni(&self, cni: CniStatus) {
        self.0.noted.lock().cni = Some(cni);
    }

    /// How things stand with the public keys of token issuers.
    pub fn keys(&self, keys: Vec<KeyStatus>) {
        self.0.noted.lock().keys = keys;
    }

    /// What was left out of the snapshot in force.
    pub fn rejections(&self) -> Vec<Rejection> {
        self.0.noted.lock().rejections.clone()
    }

    /// The page for the admin server.
    pub fn page(&self) -> Page {
        let board = self.clone();
        Arc::new(move || {
            let Some(holding) = board.0.holding.get() else {
                return "{\"error\":\"the node is another agent's still\"}".to_owned();
            };
            serde_json::to_string_pretty(&board.status(holding))
                .unwrap_or_else(|error| format!("{{\"error\":\"the status cannot be written: {error}\"}}"))
        })
    }

    fn status(&self, holding: &Holding) -> Status<EnrolmentStatus> {
        let board = &*self.0;
        let certificates = board
            .certificates
            .status()
            .into_iter()
            .map(|one| CertificateLine {
                identity: one.identity.to_string(),
                expires_unix_s: one.not_after.map(unix_seconds),
                serial: one.serial,
                renewals: one.renewals,
                last_error: one.last_error,
            });
        let snapshot = board.snapshots.load();
        let failing = holding.backends.failing(|tls| snapshot.speaks(tls));
        let noted = board.noted.lock();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: board.node.clone(),
            source: board.source.clone(),
            started_unix_s: unix_seconds(board.started),
            privileges: holding.privileges.clone(),
            snapshot_version: snapshot.version(),
            snapshot_unix_s: noted.published.map(unix_seconds),
            manifests_digest: noted.digest.clone(),
            source_error: noted.source_error.as_ref().map(|(_, error)| error.clone()),
            api_server: noted.api_server.as_ref().map(Standing::status),
            enrolment: holding.enrolment.lock().status(),
            outside: noted.outside.clone(),
            direct: noted.direct.clone(),
            splice: holding.splice.status(),
            ejected: snapshot.ejected(),
            unhealthy: snapshot.unhealthy(),
            backend_tls: failing,
            certificates: certificates.collect(),
            jwks: noted.keys.clone(),
            cni: noted.cni.clone(),
            policies: noted.policies.clone(),
            rejections: noted.rejections.clone(),
        }
    }
}

/// The CNI plugin of the node.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniStatus {
    /// The list that it is in; `None` where it is in none.
    pub list: Option<String>,
    /// How often somebody had taken it out.
    pub repairs: u64,
    /// Why it is not in place.
    pub error: Option<String>,
}

/// What goes past the agent.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectStatus {
    /// Why nothing does; `None` where it may.
    pub off: Option<String>,
    /// Verdicts that found no room.
    pub left_out: usize,
    /// Enrolled pods, by namespace and name.
    pub pods: Vec<DirectPod>,
}

/// One pod's part in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectPod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub pod: String,
    /// Destinations that it may dial directly.
    pub verdicts: usize,
    /// Connections of it that go direct now, some seconds ago at most.
    pub flows: usize,
}

/// The status page; `E` is what enrolment says, or the part of it that people are shown.
#[derive(Debug, Serialize, Deserialize)]
struct Status<E> {
    version: String,
    node: String,
    /// Where facts come from.
    source: String,
    started_unix_s: u64,
    privileges: Privileges,
    snapshot_version: u64,
    snapshot_unix_s: Option<u64>,
    /// What `mesh-agent check` prints of the directory that is in force.
    #[serde(default)]
    manifests_digest: Option<String>,
    source_error: Option<String>,
    /// How the watches stand, where facts come from an API server.
    #[serde(default)]
    api_server: Option<SourceStatus>,
    enrolment: E,
    /// Pods that are left out on purpose although their namespace takes part.
    #[serde(default)]
    outside: Vec<OutsidePod>,
    direct: DirectStatus,
    splice: SpliceStatus,
    ejected: Vec<Ejected>,
    #[serde(default)]
    unhealthy: Vec<Unhealthy>,
    /// Policies by which no TLS comes about with applications.
    #[serde(default)]
    backend_tls: Vec<FailingTls>,
    certificates: Vec<CertificateLine>,
    jwks: Vec<KeyStatus>,
    #[serde(default)]
    cni: Option<CniStatus>,
    /// What `status.conditions` of each `RateLimitPolicy` is, until somebody writes it to an API server.
    #[serde(default)]
    policies: Vec<ObjectConditions>,
    rejections: Vec<Rejection>,
}

/// What people are shown of enrolment.
#[derive(Debug, Deserialize)]
struct EnrolmentLines {
    pods: Vec<PodLine>,
    overflows: Vec<(String, u64)>,
}

#[derive(Debug, Deserialize)]
struct PodLine {
    namespace: String,
    pod: String,
    addrs: Vec<IpAddr>,
    wanted: bool,
    present: bool,
    hooks: Vec<String>,
    since_s: Option<u64>,
    bypassed: u64,
    #[serde(default)]
    learned: Option<String>,
    #[serde(default)]
    open_before: u64,
    why_not: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CertificateLine {
    identity: String,
    expires_unix_s: Option<u64>,
    serial: Option<String>,
    renewals: u64,
    last_error: Option<String>,
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
