//! What claims about real nodes look at, again and again: an agent's pages and its process, as its node's administrator
//! sees them.
//!
//! No API server is asked for it, so that it can be seen while there is none. It must not judge; claims do.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::kubernetes::api::at;
use crate::metrics::Metrics;
use crate::process::{self, ProcessId};
use crate::{agent, cgroup};

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

/// The pods that the agent of a node captures, or should.
pub(super) fn pods(cluster: &Cluster, node: &str) -> Result<Vec<Value>> {
    let status = status(cluster, node)?;
    let pods = at(&status, "/enrolment/pods").as_array().cloned();
    pods.with_context(|| format!("the status page of {node} has no pods"))
}

/// A pod among those that the agent of a node captures, or should.
pub(super) fn pod(cluster: &Cluster, node: &str, (namespace, name): (&str, &str)) -> Result<Option<Value>> {
    let mut pods = pods(cluster, node)?.into_iter();
    Ok(pods.find(|pod| at(pod, "/namespace") == namespace && at(pod, "/pod") == name))
}

/// Whether a pod of a status page is captured and served.
pub(super) fn is_captured(pod: &Value) -> bool {
    at(pod, "/present") == true && at(pod, "/why_not").is_null()
}

/// The processes of a node, in pods or not, whose command line begins with these words.
pub(super) fn processes(cluster: &Cluster, node: &str, words: &str) -> Result<Vec<ProcessId>> {
    let mut found = Vec::new();
    for pid in cgroup::processes(&cluster.site().cgroup().join(node))? {
        // One that has ended meanwhile has no command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.starts_with(words) {
            found.extend(ProcessId::of(pid).ok());
        }
    }
    Ok(found)
}

/// The agent of a node; claims about it are made while there is one.
pub(super) fn agent(cluster: &Cluster, node: &str) -> Result<ProcessId> {
    let agents = processes(cluster, node, AGENT)?;
    let [agent] = agents[..] else {
        anyhow::bail!("not one agent on {node}: {agents:?}");
    };
    Ok(agent)
}

/// What the containers of a pod wrote, as its node keeps it, without what is packed away already; a pod that is gone has
/// written nothing.
pub(super) fn logs(cluster: &Cluster, node: &str, (namespace, pod): (&str, &str)) -> Result<String> {
    let dir = cluster.site().run_dir().join("nodes").join(node);
    let dir = dir.join("var/log/pods");
    let listed = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut text = String::new();
    for entry in listed {
        let entry = entry.with_context(|| dir.display().to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(&format!("{namespace}_{pod}")) {
            continue;
        }
        for container in fs::read_dir(entry.path())? {
            for log in fs::read_dir(container?.path())? {
                let log = log?.path();
                if log.extension().is_none_or(|extension| extension != "log") {
                    continue;
                }
                text.push_str(&fs::read_to_string(&log).with_context(|| log.display().to_string())?);
            }
        }
    }
    Ok(text)
}

/// Asks until something holds.
pub(super) fn until(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let held = process::wait_until(LIMIT, || Ok(holds()?.then_some(())))?;
    held.with_context(|| format!("it does not come to pass within {LIMIT:?}: {what}"))
}

const AGENT: &str = "/usr/local/bin/mesh-agent run";
/// More than a machine with much else to do needs.
const LIMIT: Duration = Duration::from_mins(2);
