//! What the agent of a node says of pods that come and go, and what it keeps of them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::running::Running;

/// Where pods come and go.
pub(super) const NODE: &str = "node-a";

/// What the agent's status says of a pod; none of one that it does not know.
pub(super) fn shown(lab: &Running, uid: &str) -> Result<Option<Value>> {
    let status = lab.status(NODE)?;
    let pods = status
        .pointer("/enrolment/pods")
        .and_then(Value::as_array)
        .context("no pods")?;
    let mut of_uid = pods
        .iter()
        .filter(|pod| pod.get("uid").is_some_and(|own| own == uid));
    Ok(of_uid.next().cloned())
}

/// Whether what was shown is a pod whose traffic the agent serves.
pub(super) fn is_present(pod: &Value) -> bool {
    pod.get("present") == Some(&Value::Bool(true)) && pod.get("why_not") == Some(&Value::Null)
}

/// Every pin of a link of the node's pods.
pub(super) fn link_pins(lab: &Running) -> Result<Vec<PathBuf>> {
    let links = lab.site.bpf_mount(NODE).join("mesh").join(NODE).join("links");
    let mut pins = Vec::new();
    for pod in fs::read_dir(&links).with_context(|| links.display().to_string())? {
        // A pod may leave while this looks.
        let Ok(entries) = fs::read_dir(pod?.path()) else {
            continue;
        };
        pins.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    pins.sort();
    Ok(pins)
}
