//! Peers of any certificate, and what agents say of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::agent;
use crate::running::Running;
use crate::suites::ask::{addresses, python, text};

pub(super) const NODES: [&str; 2] = ["node-a", "node-b"];
pub(in crate::suites) const CLIENT: &str = "shop/client";
/// Outside the mesh, on the other node than `shop/far`.
pub(in crate::suites) const ROGUE: &str = "outside/stranger";
pub(super) const FAR: &str = "shop/far";
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// What is wrong with a certificate, and the reason that is given for it.
pub(super) const BAD: [(&str, &str); 7] = [
    ("expired", "expired"),
    ("not_valid_yet", "not_valid_yet"),
    ("two_names", "name"),
    ("dns_name", "name"),
    ("wrong_usage", "wrong_usage"),
    ("ca", "not_leaf"),
    ("self_signed", "self_signed"),
];

pub(in crate::suites) fn mesh_root(lab: &Running) -> PathBuf {
    lab.site.ca_dir().join("root.pem")
}

pub(in crate::suites) fn scratch(lab: &Running, pod: &str) -> Result<PathBuf> {
    Ok(lab.site.scratch(&pod.parse()?))
}

pub(in crate::suites) fn certify(
    lab: &Running,
    pod: &str,
    root: &Path,
    name: &str,
    kind: &str,
    identity: &str,
) -> Result<()> {
    let root = root.display().to_string();
    python(
        lab,
        pod,
        "tls_peer.py",
        &["certificate", &root, name, kind, identity],
    )
    .map(drop)
}

/// Adds a certificate to the list of both agents.
pub(super) fn revoke(lab: &Running, certificate: &str) -> Result<()> {
    let (root, list) = (
        mesh_root(lab).display().to_string(),
        super::list(lab).display().to_string(),
    );
    python(lab, ROGUE, "tls_peer.py", &["revoke", &root, &list, certificate]).map(drop)
}

/// What `shop/far` answers to a caller with this certificate; nothing when it is refused.
pub(in crate::suites) fn call(lab: &Running, certificate: &str) -> Result<String> {
    let far = addresses(lab, FAR)?[0].to_string();
    let said = python(
        lab,
        ROGUE,
        "tls_peer.py",
        &["client", certificate, "mesh-tcp", &far, "8080"],
    )?;
    Ok(text(&said, "received")?.to_owned())
}

pub(in crate::suites) fn failures(lab: &Running, node: &str, side: &str, reason: &str) -> Result<f64> {
    let labels = [("side", side), ("reason", reason)];
    Ok(lab.metrics(node)?.sum("mesh_handshake_failures_total", &labels))
}

pub(super) fn is_logged(lab: &Running, node: &str, message: &str, reason: &str) -> Result<()> {
    let log = fs::read_to_string(agent::log(&lab.site, node, "stderr")).context("read the agent's log")?;
    let reason = format!("\"reason\":\"{reason}\"");
    let is_there = log
        .lines()
        .any(|line| line.contains(message) && line.contains(&reason));
    ensure!(is_there, "no line of {node} says {message} with {reason}");
    Ok(())
}
