//! Much at once: bytes, and connections.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{CLIENT, SERVERS, at};
use crate::running::Running;
use crate::suites::ask::{addresses, equal, python, until};

const HUNDRED_MEGABYTES: &str = "100000000";
const CONNECTIONS: u32 = 5000;

pub(super) fn a_hundred_megabytes_arrive_unchanged_each_way(lab: &Running) -> Result<()> {
    let outside = addresses(lab, "outside/shape-outside")?[1].to_string();
    for server in SERVERS.into_iter().chain([outside.as_str()]) {
        let said = python(
            lab,
            CLIENT,
            "shapes.py",
            &["bulk", server, "7100", HUNDRED_MEGABYTES],
        )?;
        equal(
            &format!("sent to {server}"),
            at(&said, "sent"),
            at(&said, "wanted"),
        )?;
        let received = at(&said, "received");
        equal(
            "bytes received",
            at(received, "bytes").as_u64(),
            Some(100_000_000),
        )?;
        equal(&format!("received from {server}"), received, at(&said, "wanted"))?;
    }
    Ok(())
}

pub(super) fn a_hundred_megabytes_arrive_unchanged_as_http_bodies(lab: &Running) -> Result<()> {
    let make = format!("head -c {HUNDRED_MEGABYTES} /dev/urandom > \"$SCRATCH/bulk\"");
    lab.exec(CLIENT, &["sh", "-c", &make])?.success()?;
    for server in ["near", "far"] {
        let script =
            format!("curl -sS -m 50 -T \"$SCRATCH/bulk\" http://{server}/echo | cmp - \"$SCRATCH/bulk\"");
        lab.exec(CLIENT, &["sh", "-c", &script])?
            .success()
            .with_context(|| format!("echo by {server}"))?;
    }
    lab.exec(CLIENT, &["sh", "-c", "rm \"$SCRATCH/bulk\""])?
        .success()
        .map(|_| ())
}

pub(super) fn five_thousand_connections_of_one_pod_are_alive_at_once_and_leave_nothing(
    lab: &Running,
) -> Result<()> {
    for server in SERVERS {
        let before = held(lab)?;
        let output = lab
            .exec(
                CLIENT,
                &[
                    "python3",
                    "../programs/shapes.py",
                    "many",
                    server,
                    "7100",
                    &CONNECTIONS.to_string(),
                ],
            )?
            .success()?;
        let last = output.stdout.lines().last().context("the program said nothing")?;
        let said: Value = serde_json::from_str(last)?;
        for step in ["begun", "ready", "exchanged", "finished"] {
            ensure!(at(&said, step) == CONNECTIONS, "{step} by {server}: {said}");
        }
        // Descriptors and tasks of both agents are back to what they were, give or take what is pooled or polled.
        until(Duration::from_secs(10), "the agents let go of all", || {
            let now = held(lab)?;
            Ok(now
                .into_iter()
                .zip(before)
                .all(|(now, before)| now <= before + 20.0))
        })?;
    }
    Ok(())
}

/// Descriptors and tasks of both agents.
fn held(lab: &Running) -> Result<[f64; 4]> {
    let (a, b) = (lab.metrics("node-a")?, lab.metrics("node-b")?);
    let of = |name: &str| [a.sum(name, &[]), b.sum(name, &[])];
    let ([a, b], [c, d]) = (of("process_open_fds"), of("mesh_tasks_active"));
    ensure!(a > 0.0 && b > 0.0 && c > 0.0 && d > 0.0, "no such metrics");
    Ok([a, b, c, d])
}
