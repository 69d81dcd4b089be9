//! What pods leave on their nodes: what is pinned and noted for them in the kernel, and what the kubelet and its runtime made.
//!
//! A node's administrator sees it by bpftool and in directories. It must not know which of it should be there.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::seen;
use crate::cluster::{Cluster, NODES};
use crate::kubernetes::api::at;
use crate::metrics::Metrics;
use crate::process;

/// What was on the nodes at a moment, and what their agents had counted.
#[derive(Debug)]
pub(super) struct Before {
    traces: BTreeSet<String>,
    counts: Vec<(&'static str, &'static str, f64)>,
}

impl Before {
    /// What is there now.
    pub(super) fn now(cluster: &Cluster) -> Result<Self> {
        Ok(Self {
            traces: traces(cluster)?,
            counts: counts(cluster)?,
        })
    }

    /// Waits until nothing is there that was not there then, and no agent has had to mend, give up or find a pod too late.
    pub(super) fn is_all(&self, cluster: &Cluster) -> Result<()> {
        let mut left = BTreeSet::new();
        let gone = process::wait_until(LIMIT, || {
            left = &traces(cluster)? - &self.traces;
            Ok(left.is_empty().then_some(()))
        })?;
        gone.with_context(|| format!("left on the nodes: {left:?}"))?;
        let counts = counts(cluster)?;
        ensure!(
            counts == self.counts,
            "agents count {counts:?}, and counted {:?}",
            self.counts
        );
        for node in NODES {
            // What grew long is packed away.
            let logs = "zcat --force /var/log/pods/mesh-system_mesh-agent*/*/*";
            let left = lines(cluster, node, &format!("{logs} | grep 'pod left traces' || true"))?;
            ensure!(left.is_empty(), "the agent of {node} says: {left:?}");
        }
        Ok(())
    }
}

/// On both nodes.
fn traces(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for node in NODES {
        let mut add = |what: &str, name: &str| found.insert(format!("{node}: {what} {name}"));
        for pin in lines(
            cluster,
            node,
            "find /sys/fs/bpf/mesh/*/links -ignore_readdir_race -type f",
        )? {
            add("a pinned link,", &pin);
        }
        for map in MAPS {
            for key in keys(cluster, node, map)? {
                add(map, &key);
            }
        }
        for netns in lines(cluster, node, "ls /run/netns")? {
            add("a network namespace,", &netns);
        }
        for dir in lines(cluster, node, "ls /var/lib/kubelet/pods")? {
            add("a directory of the kubelet,", &dir);
        }
        let groups = cluster.site().cgroup().join(node).display().to_string();
        for group in lines(
            cluster,
            node,
            &format!("find {groups} -ignore_readdir_race -type d -name 'pod*-*'"),
        )? {
            add("a cgroup,", &group);
        }
    }
    Ok(found)
}

/// What has an entry in a pinned map.
fn keys(cluster: &Cluster, node: &str, map: &str) -> Result<Vec<String>> {
    let dump = format!("bpftool --json map dump pinned $(ls -d /sys/fs/bpf/mesh/*/maps-*/{map})");
    let said = on_node(cluster, node, &dump)?;
    let entries: Value = serde_json::from_str(&said).with_context(|| format!("entries of {map}: {said}"))?;
    let entries = entries
        .as_array()
        .with_context(|| format!("entries of {map}: {said}"))?;
    Ok(entries
        .iter()
        .map(|entry| at(entry, "/key").to_string())
        .collect())
}

fn lines(cluster: &Cluster, node: &str, script: &str) -> Result<Vec<String>> {
    Ok(on_node(cluster, node, script)?
        .lines()
        .map(str::to_owned)
        .collect())
}

fn on_node(cluster: &Cluster, node: &str, script: &str) -> Result<String> {
    let said = cluster.run_on(node, &["sh", "-c", script], LIMIT)?.success();
    Ok(said.with_context(|| script.to_owned())?.stdout)
}

/// What no agent should have cause to count, by node and family.
fn counts(cluster: &Cluster) -> Result<Vec<(&'static str, &'static str, f64)>> {
    let mut counts = Vec::new();
    for node in NODES {
        let metrics: Metrics = seen::metrics(cluster, node)?;
        counts.extend(FAULTS.map(|family| (node, family, metrics.sum(family, &[]))));
    }
    Ok(counts)
}

/// Maps with an entry for each pod or its addresses.
const MAPS: [&str; 4] = ["PODS", "POD_ADDRS", "INBOUND", "BYPASSED"];
const FAULTS: [&str; 5] = [
    "mesh_capture_repairs_total",
    "mesh_map_overflow_total",
    "mesh_pods_enrolled_late_total",
    "mesh_task_panics_total",
    "mesh_uncaptured_connections_total",
];
const LIMIT: Duration = Duration::from_mins(2);
