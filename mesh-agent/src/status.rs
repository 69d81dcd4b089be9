//! What `mesh-agent status` shows: one JSON page, and its form for humans.
//!
//! Place in the walk: none; it reads what the engines know. Must not know: how any of it came about.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::admin::Page;
use crate::config::Config;
use crate::identity::Certificates;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::splice::{SpliceBoard, SpliceStatus};
use crate::kernel::status::EnrolmentStatus;
use crate::mesh::facts::Rejection;
use crate::snapshot::{Ejected, SnapshotCell};

/// Gathers what the status page shows; clones share it.
#[derive(Debug, Clone)]
pub struct StatusBoard(Arc<Board>);

#[derive(Debug)]
struct Board {
    node: String,
    manifests: String,
    started: SystemTime,
    snapshots: Arc<SnapshotCell>,
    certificates: Arc<Certificates>,
    enrolment: Arc<Mutex<Enrolment>>,
    splice: SpliceBoard,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    rejections: Vec<Rejection>,
    published: Option<SystemTime>,
    source_error: Option<String>,
    direct: DirectStatus,
}

impl StatusBoard {
    /// A board over the agent's parts.
    pub fn new(
        config: &Config,
        snapshots: &Arc<SnapshotCell>,
        certificates: &Arc<Certificates>,
        enrolment: &Arc<Mutex<Enrolment>>,
        splice: SpliceBoard,
    ) -> Self {
        Self(Arc::new(Board {
            node: config.node_name.clone(),
            manifests: config.manifests.display().to_string(),
            started: SystemTime::now(),
            snapshots: Arc::clone(snapshots),
            certificates: Arc::clone(certificates),
            enrolment: Arc::clone(enrolment),
            splice,
            noted: Mutex::default(),
        }))
    }

    /// A new snapshot is in force, and this was left out of it.
    pub fn published(&self, rejections: Vec<Rejection>) {
        let mut noted = self.0.noted.lock();
        *noted = Noted {
            rejections,
            published: Some(SystemTime::now()),
            source_error: None,
            direct: std::mem::take(&mut noted.direct),
        };
    }

    /// The source as a whole cannot be read.
    pub fn source_failed(&self, error: String) {
        self.0.noted.lock().source_error = Some(error);
    }

    /// What goes past the agent now.
    pub fn direct(&self, direct: DirectStatus) {
        self.0.noted.lock().direct = direct;
    }

    /// What was left out of the snapshot in force.
    pub fn rejections(&self) -> Vec<Rejection> {
        self.0.noted.lock().rejections.clone()
    }

    /// The page for the admin server.
    pub fn page(&self) -> Page {
        let board = self.clone();
        Arc::new(move || {
            serde_json::to_string_pretty(&board.status())
                .unwrap_or_else(|error| format!("{{\"error\":\"the status cannot be written: {error}\"}}"))
        })
    }

    fn status(&self) -> Status<EnrolmentStatus> {
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
        let noted = board.noted.lock();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: board.node.clone(),
            manifests: board.manifests.clone(),
            started_unix_s: unix_seconds(board.started),
            snapshot_version: board.snapshots.load().version(),
            snapshot_unix_s: noted.published.map(unix_seconds),
            source_error: noted.source_error.clone(),
            enrolment: board.enrolment.lock().status(),
            direct: noted.direct.clone(),
            splice: board.splice.status(),
            ejected: board.snapshots.load().ejected(),
            certificates: certificates.collect(),
            rejections: noted.rejections.clone(),
        }
    }
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
    manifests: String,
    started_unix_s: u64,
    snapshot_version: u64,
    snapshot_unix_s: Option<u64>,
    source_error: Option<String>,
    enrolment: E,
    direct: DirectStatus,
    splice: SpliceStatus,
    ejected: Vec<Ejected>,
    certificates: Vec<CertificateLine>,
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

/// The page as a person wants to read it. Errors: `page` is not a status page.
pub fn for_humans(page: &str) -> anyhow::Result<String> {
    let status: Status<EnrolmentLines> = serde_json::from_str(page)?;
    let mut text = String::new();
    writeln!(
        text,
        "node {} · agent {} · snapshot {}",
        status.node, status.version, status.snapshot_version
    )?;
    if let Some(error) = &status.source_error {
        writeln!(text, "! {error}; the last configuration stays in force")?;
    }
    let now = unix_seconds(SystemTime::now());
    text.push_str(&table_of(&status.enrolment.pods, now)?);
    for (map, entries) in status.enrolment.overflows.iter().filter(|full| full.1 > 0) {
        writeln!(text, "  ! the map {map} had no room for {entries} entries")?;
    }
    write_direct(&mut text, &status.direct)?;
    write_splice(&mut text, &status.splice)?;
    writeln!(text, "\nEJECTED ENDPOINTS: {}", status.ejected.len())?;
    for endpoint in &status.ejected {
        writeln!(text, "  {endpoint}")?;
    }
    writeln!(text, "\nCERTIFICATES")?;
    for one in &status.certificates {
        match one.expires_unix_s {
            Some(at) => write!(text, "  {} expires in {} s", one.identity, at.saturating_sub(now))?,
            None => write!(text, "  {} not issued yet", one.identity)?,
        }
        match &one.last_error {
            Some(error) => writeln!(text, "  ! {error}")?,
            None => writeln!(text)?,
        }
    }
    writeln!(text, "\nREJECTIONS: {}", status.rejections.len())?;
    for rejection in &status.rejections {
        writeln!(text, "  {rejection}")?;
    }
    Ok(text)
}

/// One line a pod, and below it what is wrong with it.
fn table_of(pods: &[PodLine], now: u64) -> Result<String, std::fmt::Error> {
    let name = |pod: &PodLine| format!("{}/{}", pod.namespace, pod.pod);
    let addrs = |pod: &PodLine| {
        pod.addrs
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let width = |cell: &dyn Fn(&PodLine) -> String, title: &str| {
        let widths = pods.iter().map(|pod| cell(pod).len());
        widths.chain([title.len()]).max().unwrap_or_default()
    };
    let (names, addresses) = (width(&name, "POD"), width(&addrs, "ADDRESSES"));
    let mut text = String::new();
    writeln!(
        text,
        "\nPODS\n  {:names$}  {:addresses$}  {:12}  {:>8}  HOOKS",
        "POD", "ADDRESSES", "STATE", "SINCE"
    )?;
    for pod in pods {
        let since = pod.since_s.map_or_else(
            || "-".to_owned(),
            |since| format!("{} s", now.saturating_sub(since)),
        );
        let hooks = if pod.hooks.is_empty() {
            "-".to_owned()
        } else {
            pod.hooks.join(" ")
        };
        writeln!(
            text,
            "  {:names$}  {:addresses$}  {:12}  {since:>8}  {hooks}",
            name(pod),
            addrs(pod),
            pod.state(),
        )?;
        if pod.bypassed > 0 {
            writeln!(text, "    {} connections bypassed a dead agent", pod.bypassed)?;
        }
        if let Some(why) = &pod.why_not {
            writeln!(text, "    ! {why}")?;
        }
    }
    Ok(text)
}

impl PodLine {
    fn state(&self) -> &'static str {
        match (self.wanted, self.present, &self.why_not) {
            (true, true, None) => "enrolled",
            (true, true, Some(_)) => "FAULTY",
            (true, false, _) => "NOT ENROLLED",
            (false, true, _) => "leaving",
            (false, false, _) => "out",
        }
    }
}

fn write_direct(text: &mut String, direct: &DirectStatus) -> std::fmt::Result {
    writeln!(text, "\nDIRECT")?;
    if let Some(why) = &direct.off {
        writeln!(text, "  off: {why}")?;
    }
    if direct.left_out > 0 {
        writeln!(
            text,
            "  ! {} destinations found no room and go through the agent",
            direct.left_out
        )?;
    }
    for pod in &direct.pods {
        let (namespace, name) = (&pod.namespace, &pod.pod);
        let (flows, verdicts) = (pod.flows, pod.verdicts);
        writeln!(
            text,
            "  {namespace}/{name} may dial {verdicts} directly, {flows} connections do"
        )?;
    }
    Ok(())
}

fn write_splice(text: &mut String, splice: &SpliceStatus) -> std::fmt::Result {
    writeln!(text, "\nSPLICE: {}", splice.state)?;
    if !splice.why.is_empty() {
        writeln!(text, "  ! {}", splice.why)?;
    }
    for check in &splice.checks {
        match &check.failure {
            None => writeln!(text, "  {} ({} ms)", check.claim, check.took_ms)?,
            Some(why) => writeln!(text, "  ! not so: {}: {why} ({} ms)", check.claim, check.took_ms)?,
        }
    }
    Ok(())
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, present: bool, why_not: Option<&str>) -> PodLine {
        PodLine {
            namespace: "shop".to_owned(),
            pod: name.to_owned(),
            addrs: vec!["10.0.0.1".parse().unwrap()],
            wanted: true,
            present,
            hooks: if present {
                vec!["connect4".to_owned()]
            } else {
                Vec::new()
            },
            since_s: present.then_some(100),
            bypassed: 0,
            why_not: why_not.map(str::to_owned),
        }
    }

    #[test]
    fn pods_are_a_table_with_the_reason_below() {
        let pods = [
            pod("a-long-name", true, None),
            pod("b", false, Some("the pod has no address yet")),
            pod("c", true, Some("no room")),
        ];
        let table = table_of(&pods, 142).unwrap();
        assert_eq!(
            table.lines().skip(2).collect::<Vec<_>>(),
            [
                "  POD               ADDRESSES  STATE            SINCE  HOOKS",
                "  shop/a-long-name  10.0.0.1   enrolled          42 s  connect4",
                "  shop/b            10.0.0.1   NOT ENROLLED         -  -",
                "    ! the pod has no address yet",
                "  shop/c            10.0.0.1   FAULTY            42 s  connect4",
                "    ! no room",
            ]
        );
    }
}
