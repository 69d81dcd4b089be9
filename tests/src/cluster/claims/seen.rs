//! What claims about real nodes look at, again and again: an agent's pages and its process, as its node's administrator
//! sees them.
//!
//! No API server is asked for it, so that it can be seen while there is none. It must not judge; claims do.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent;
use crate::cgroup;
use crate::cluster::Cluster;
use crate::metrics::Metrics;
use crate::process::{self, ProcessId};

/// What the agent of a node says of itself.
pub(super) fn status(cluster: &Cluster, node: &str) -> Result<Value> {
    agent::status(cluster.site(), node)
}

/// What the agent of a node counts.
pub(super) fn metrics(cluster: &Cluster, node: &str) -> Result<Metrics> {
    agent::metrics(cluster.site(), node)
}

/// Whether the agent of a node says that it is ready; one that does not answer is not.
pub(super) fn is_ready(cluster: &Cluster, node: &str) -> bool {
    agent::page(cluster.site(), node, "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// A process of a node, in a pod or not, whose command line has these words.
pub(super) fn process(cluster: &Cluster, node: &str, words: &str) -> Result<Option<ProcessId>> {
    for pid in cgroup::processes(&cluster.site().cgroup().join(node))? {
        // One that ended meanwhile has no command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if let (true, Ok(found)) = (line.contains(words), ProcessId::of(pid)) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Asks until something holds.
pub(super) fn until(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let held = process::wait_until(LIMIT, || Ok(holds()?.then_some(())))?;
    held.with_context(|| format!("it does not come to pass within {LIMIT:?}: {what}"))
}

/// More than a machine with much else to do needs.
const LIMIT: Duration = Duration::from_mins(2);
