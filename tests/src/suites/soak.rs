//! Soak: many requests, none of them lost, and nothing kept of them a minute later.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Claim, claims};
use crate::agent;
use crate::process;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    ten_thousand_requests_one_by_one_and_64_times_a_thousand_at_once_leave_nothing_behind,
    a_thousand_connections_of_their_own_leave_nothing_behind,
];

const LIMIT: Duration = Duration::from_mins(4);
const A_MINUTE: Duration = Duration::from_secs(60 + 5);

fn ten_thousand_requests_one_by_one_and_64_times_a_thousand_at_once_leave_nothing_behind(
    lab: &Running,
) -> Result<()> {
    // Code, buffers and pools that the first requests bring in are no leak; after these an agent's memory stays level.
    requests(lab, 20_000, 64)?;
    returns_to_before(lab, || {
        requests(lab, 10_000, 1)?;
        requests(lab, 64_000, 64)
    })
}

fn a_thousand_connections_of_their_own_leave_nothing_behind(lab: &Running) -> Result<()> {
    let connections = |count: u32| -> Result<()> {
        let script = format!(
            "seq {count} | xargs -P 8 -I N curl -sS -m 20 -o /dev/null -w '%{{http_code}}\\n' http://fast/N | sort | uniq -c"
        );
        let output = lab
            .exec_within(LIMIT, "shop/client", &["sh", "-c", &script])?
            .success()?;
        super::ask::equal("answers", output.stdout.trim(), format!("{count} 200"))
    };
    connections(100)?;
    returns_to_before(lab, || connections(1000))
}

/// Does the work, then waits until what the agents hold is within 10 % of what it was before.
fn returns_to_before(lab: &Running, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = settled(lab)?;
    work()?;
    let mut now = usage(lab)?;
    let returned = process::wait_until(A_MINUTE, || {
        now = usage(lab)?;
        Ok(before
            .iter()
            .all(|(node, before)| now.get(node).is_some_and(|now| is_within(now, before)))
            .then_some(()))
    })?;
    ensure!(
        returned.is_some(),
        "a minute later the agents hold {now:?}, before it was {before:?}"
    );
    Ok(())
}

/// What an agent holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    process: agent::Usage,
    tasks: f64,
}

fn is_within(now: &Held, before: &Held) -> bool {
    now.process.open_files * 10 <= before.process.open_files * 11
        && now.process.rss_kib * 10 <= before.process.rss_kib * 11
        && now.process.threads * 10 <= before.process.threads * 11
        && now.tasks <= before.tasks * 1.1
}

/// What the agents hold once the number of their open files no longer falls.
fn settled(lab: &Running) -> Result<BTreeMap<String, Held>> {
    let mut last = usage(lab)?;
    let mut since = std::time::Instant::now();
    process::wait_until(A_MINUTE, || {
        let now = usage(lab)?;
        let falls = now.iter().any(|(node, now)| {
            last.get(node)
                .is_none_or(|last| now.process.open_files < last.process.open_files)
        });
        if falls {
            since = std::time::Instant::now();
        }
        last = now;
        Ok((since.elapsed() > Duration::from_secs(15)).then_some(()))
    })?;
    Ok(last)
}

fn usage(lab: &Running) -> Result<BTreeMap<String, Held>> {
    let held = lab.state.nodes.keys().map(|node| {
        let process = agent::usage(lab.agent(node)?)?;
        let tasks = lab.metrics(node)?.sum("mesh_tasks_active", &[]);
        ensure!(tasks >= 1.0, "{node} counts no task");
        Ok((node.clone(), Held { process, tasks }))
    });
    held.collect()
}

/// Requests through both agents, each of which has to be answered with 200.
fn requests(lab: &Running, count: u32, connections: u32) -> Result<()> {
    let (count, connections) = (count.to_string(), connections.to_string());
    let program = ["h2load", "--h1", "-n", &count, "-c", &connections, "http://fast/"];
    let output = lab.exec_within(LIMIT, "shop/client", &program)?.success()?;
    let line = output
        .stdout
        .lines()
        .find(|line| line.starts_with("requests:"))
        .context("h2load says nothing")?;
    let wanted = format!("{count} succeeded, 0 failed, 0 errored, 0 timeout");
    ensure!(line.contains(&wanted), "{line}");
    let codes = output
        .stdout
        .lines()
        .find(|line| line.starts_with("status codes:"))
        .unwrap_or_default();
    ensure!(codes.contains(&format!("{count} 2xx")), "{codes}");
    Ok(())
}
