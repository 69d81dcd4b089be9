//! What the agent of `node-b` says of direct flows: metrics, status, and what its hooks count.
//!
//! It must not judge; claims do.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::ask::until;
use super::talker::Talker;
use crate::running::Running;

/// Where `client-b`, `greeter` and `redis` are.
pub(super) const NODE: &str = "node-b";
/// The pod that dials.
pub(super) const CLIENT: &str = "shop/client-b";

/// Connections opened and closed, bytes to the client and to the server, of `client-b` to `greeter`; as the source
/// reports them, then as the destination does.
pub(super) fn both(lab: &Running) -> Result<[[f64; 4]; 2]> {
    let metrics = lab.metrics(NODE)?;
    let of = |reporter: &str| {
        [
            "istio_tcp_connections_opened_total",
            "istio_tcp_connections_closed_total",
            "istio_tcp_sent_bytes_total",
            "istio_tcp_received_bytes_total",
        ]
        .map(|name| {
            let labels = [
                ("reporter", reporter),
                ("source_workload", "client-b"),
                ("destination_workload", "greeter"),
                ("connection_security_policy", "in_process"),
            ];
            metrics.sum(name, &labels)
        })
    };
    Ok([of("source"), of("destination")])
}

pub(super) fn is_grown(now: [f64; 4], before: [f64; 4], by: [f64; 4]) -> bool {
    let grown = now.into_iter().zip(before).zip(by);
    grown
        .into_iter()
        .all(|((now, before), by)| is_more_by(now, before, by))
}

pub(super) fn is_more_by(now: f64, before: f64, by: f64) -> bool {
    (now - before - by).abs() < 0.5
}

pub(super) fn direct_count(lab: &Running) -> Result<f64> {
    Ok(lab
        .metrics(NODE)?
        .sum("mesh_connections_path_total", &[("path", "direct")]))
}

pub(super) fn captured(lab: &Running, direction: &str) -> Result<f64> {
    let labels = [("direction", direction)];
    Ok(lab.metrics(NODE)?.sum("mesh_captured_connections_total", &labels))
}

/// What the hooks counted.
pub(super) fn counter(lab: &Running, name: &str) -> Result<u64> {
    let status = lab.status(NODE)?;
    let counters = status
        .pointer("/enrolment/counters")
        .and_then(Value::as_array)
        .context("no counters")?;
    let found = counters
        .iter()
        .find(|pair| pair.get(0).and_then(Value::as_str) == Some(name));
    let count = found.and_then(|pair| pair.get(1)).and_then(Value::as_u64);
    count.with_context(|| format!("no counter {name}"))
}

/// A pod as the status page's part on direct flows has it.
pub(super) fn direct_pod(lab: &Running, name: &str) -> Result<Option<Value>> {
    let status = lab.status(NODE)?;
    let pods = status
        .pointer("/direct/pods")
        .and_then(Value::as_array)
        .context("no pods")?;
    let found = pods
        .iter()
        .find(|pod| pod.get("pod").and_then(Value::as_str) == Some(name));
    Ok(found.cloned())
}

/// The agent looks at its direct flows every second: waits until it has looked at what was there before.
pub(super) fn looked_again(lab: &Running) -> Result<()> {
    let direct = direct_count(lab)?;
    let mut talker = Talker::start(lab, CLIENT, &["redis", "6379"])?;
    talker.say("PING")?;
    talker.drop_now()?;
    until(Duration::from_secs(5), "another connection is counted", || {
        Ok(direct_count(lab)? > direct)
    })
    .map(|_| ())
}
