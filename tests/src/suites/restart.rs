//! Restart: an agent is killed, ended, replaced and removed, and its pods never speak plaintext in between.
//!
//! Each claim leaves the agent of every node running.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use mesh_common::bpf_link;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ask::{addresses, equal, get, until, url};
use super::{Claim, claims};
use crate::agent;
use crate::process::{self, Output, ProcessId};
use crate::running::Running;
use crate::site::Site;
use crate::wire::Capture;

pub(super) const CLAIMS: &[Claim] = claims![
    a_killed_agent_refuses_new_connections_both_ways_and_sends_no_plaintext,
    the_next_agent_serves_the_same_pods_within_three_seconds,
    an_agent_that_is_told_to_end_leaves_no_gap_either,
    a_pod_that_fails_open_goes_past_a_dead_agent_and_that_is_counted,
    a_link_that_is_detached_by_hand_is_repaired_and_counted_within_five_seconds,
    uninstall_is_refused_while_the_agent_runs,
    uninstall_removes_all_that_was_pinned_and_the_pods_are_free,
    uninstall_that_stays_is_ready_when_nothing_is_left_and_ends_when_it_is_told_to,
];

const NODE: &str = "node-a";
const CLIENT: &str = "shop/client";
/// Its manifest says that it fails open.
const OPEN: &str = "shop/fast-near";
/// What tcpdump would show of a request of these claims that is not encrypted.
const MARK: &str = "seen-only-by-the-server";

fn a_killed_agent_refuses_new_connections_both_ways_and_sends_no_plaintext(lab: &Running) -> Result<()> {
    let capture = Capture::start(lab, "killed")?;
    equal(
        "before",
        get(lab, CLIENT, &format!("http://far/{MARK}"))?.status,
        200,
    )?;
    lab.end_agent(NODE, Signal::SIGKILL)?;
    is_refused_both_ways(lab)?;
    let wire = capture.stop()?;
    ensure!(
        wire.tls_packets > 0,
        "the capture saw nothing of the request before"
    );
    equal(
        "plaintext on the wire",
        (wire.plaintext_packets, wire.plaintext_samples.clone()),
        (0, Vec::<String>::new()),
    )?;
    ensure!(!wire.contains(MARK.as_bytes()), "a path was on the wire");
    lab.start_agent(NODE)
}

fn the_next_agent_serves_the_same_pods_within_three_seconds(lab: &Running) -> Result<()> {
    let program = lab.pod(&"shop/near".parse()?)?.program;
    let pins = pins(lab)?;
    ensure!(!pins.is_empty(), "nothing is pinned");
    lab.end_agent(NODE, Signal::SIGKILL)?;
    lab.start_agent_unready(NODE)?;
    until(Duration::from_secs(3), "the pods are served both ways", || {
        Ok(get(lab, CLIENT, "http://far/")?.status == 200
            && get(lab, "shop/client-b", "http://near/")?.status == 200)
    })?;
    lab.wait_ready(NODE)?;
    ensure!(
        program.is_some_and(ProcessId::is_alive),
        "the pod's program did not live on"
    );
    equal("pins", self::pins(lab)?, pins)
}

fn an_agent_that_is_told_to_end_leaves_no_gap_either(lab: &Running) -> Result<()> {
    lab.end_agent(NODE, Signal::SIGTERM)?;
    is_refused_both_ways(lab)?;
    lab.start_agent(NODE)?;
    equal("after", get(lab, CLIENT, "http://far/")?.status, 200)
}

fn a_pod_that_fails_open_goes_past_a_dead_agent_and_that_is_counted(lab: &Running) -> Result<()> {
    let open = url(addresses(lab, OPEN)?[0], 8080, "/");
    let closed = url(addresses(lab, "shop/near")?[0], 8080, "/");
    let bypassed = || -> Result<f64> { Ok(lab.metrics(NODE)?.sum("mesh_bypassed_connections_total", &[])) };
    let before = bypassed()?;
    lab.end_agent(NODE, Signal::SIGKILL)?;
    // The hooks take the agent for dead when it has not been heard of for three seconds.
    until(Duration::from_secs(5), "the pod is reached with no agent", || {
        Ok(get(lab, "outside/stranger", &open)?.status == 200)
    })?;
    let reply = get(lab, OPEN, &url(addresses(lab, "outside/plain")?[0], 8080, "/"))?;
    equal(
        "whom the server sees of the pod itself",
        reply.says("peer")?,
        addresses(lab, OPEN)?[0].to_string(),
    )?;
    equal(
        "a pod that fails closed",
        get(lab, "outside/stranger", &closed)?.status,
        0,
    )?;
    lab.start_agent(NODE)?;
    until(Duration::from_secs(3), "both are counted", || {
        Ok(bypassed()? - before >= 2.0)
    })?;
    let status = lab.status(NODE)?;
    let pods = status
        .pointer("/enrolment/pods")
        .and_then(Value::as_array)
        .context("no pods")?;
    for pod in pods {
        let name = pod.get("pod").and_then(Value::as_str).unwrap_or_default();
        let count = pod.get("bypassed").and_then(Value::as_u64).context("no count")?;
        equal(
            &format!("{name} went past the agent"),
            count > 0,
            OPEN.ends_with(&format!("/{name}")),
        )?;
    }
    Ok(())
}

fn a_link_that_is_detached_by_hand_is_repaired_and_counted_within_five_seconds(lab: &Running) -> Result<()> {
    let repairs = || -> Result<f64> { Ok(lab.metrics(NODE)?.sum("mesh_capture_repairs_total", &[])) };
    let before = repairs()?;
    let pins = pins(lab)?;
    let connects: Vec<_> = pins.iter().filter(|pin| pin.ends_with("mesh_connect4")).collect();
    ensure!(!connects.is_empty(), "no connect hook is pinned");
    for pin in &connects {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let link = bpf_link::open_pinned(&path).map_err(io::Error::from_raw_os_error)?;
        bpf_link::detach(link.as_fd()).map_err(io::Error::from_raw_os_error)?;
    }
    let detached = f64::from(u32::try_from(connects.len())?);
    until(Duration::from_secs(5), "every detached link is repaired", || {
        Ok(repairs()? - before >= detached)
    })?;
    // A Service address has no way but the mesh.
    equal("after the repair", get(lab, CLIENT, "http://far/")?.status, 200)?;
    equal("pins", self::pins(lab)?, pins)
}

fn uninstall_is_refused_while_the_agent_runs(lab: &Running) -> Result<()> {
    let before = pins(lab)?;
    let refused = uninstall(lab)?;
    equal("exit code", refused.status.code(), Some(1))?;
    ensure!(
        refused.stderr.contains("the agent runs") && refused.stderr.contains("--force"),
        "{}",
        refused.stderr
    );
    equal("pins", pins(lab)?, before)?;
    equal("served", get(lab, CLIENT, "http://far/")?.status, 200)
}

fn uninstall_removes_all_that_was_pinned_and_the_pods_are_free(lab: &Running) -> Result<()> {
    lab.end_agent(NODE, Signal::SIGTERM)?;
    let done = uninstall(lab)?.success()?;
    ensure!(done.stdout.contains("none of them any more"), "{}", done.stdout);
    ensure!(
        !lab.site.bpf_mount(NODE).join("mesh").exists(),
        "something is still pinned"
    );
    let address = addresses(lab, "shop/near")?[0];
    let reply = get(lab, CLIENT, &url(address, 8080, "/"))?;
    equal(
        "whom the server sees with no mesh",
        reply.says("peer")?,
        addresses(lab, CLIENT)?[0].to_string(),
    )?;
    equal("again", uninstall(lab)?.status.code(), Some(0))?;
    lab.start_agent(NODE)?;
    equal("served", get(lab, CLIENT, "http://far/")?.status, 200)
}

fn uninstall_that_stays_is_ready_when_nothing_is_left_and_ends_when_it_is_told_to(
    lab: &Running,
) -> Result<()> {
    lab.end_agent(NODE, Signal::SIGTERM)?;
    let netns = Site::netns_path(&lab.site.node_netns(NODE));
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display()));
    command.arg(lab.site.agent_binary());
    let mut child = uninstalling(lab, &mut command)
        .args(["--stay", "--admin-addr", &agent::ADMIN_ADDR.to_string()])
        .spawn()
        .context("start the removal")?;
    let seen = ProcessId::of(child.id()).and_then(|removal| {
        agent::wait_ready(&lab.site, NODE, removal)?;
        ensure!(
            !lab.site.bpf_mount(NODE).join("mesh").exists(),
            "it is ready and something is still pinned"
        );
        removal.signal(Signal::SIGTERM)
    });
    if seen.is_err() {
        process::reap(&mut child)?;
    }
    seen?;
    equal(
        "exit code",
        process::wait(&mut child, Duration::from_secs(20))?.code(),
        Some(0),
    )?;
    lab.start_agent(NODE)?;
    equal("served", get(lab, CLIENT, "http://far/")?.status, 200)
}

/// Out of the dead agent's pods and into them, from the mesh, from outside, and on the node itself.
fn is_refused_both_ways(lab: &Running) -> Result<()> {
    let near = addresses(lab, "shop/near")?;
    let far = addresses(lab, "shop/far")?;
    let mark = format!("/{MARK}");
    let mut dials = vec![(CLIENT, format!("http://far{mark}"))];
    for (near, far) in near.into_iter().zip(far) {
        dials.push((CLIENT, url(far, 8080, &mark)));
        dials.push((CLIENT, url(near, 8080, &mark)));
        dials.push(("outside/stranger", url(near, 8080, &mark)));
    }
    for (client, url) in dials {
        let reply = get(lab, client, &url)?;
        equal(
            &format!("{client} to {url}"),
            (reply.status, reply.body.as_str()),
            (0, ""),
        )?;
        ensure!(
            reply.took < Duration::from_secs(5) && !reply.complaint.contains("timed out"),
            "{client} to {url}: refused by silence only: {}",
            reply.complaint
        );
    }
    // The other node's agent says so for its own pods.
    equal(
        "from the other node",
        get(lab, "shop/client-b", "http://near/")?.status,
        503,
    )
}

/// Every pin of the node.
fn pins(lab: &Running) -> Result<Vec<PathBuf>> {
    let mut dirs = vec![lab.site.bpf_mount(NODE).join("mesh")];
    let mut pins = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else {
                pins.push(entry.path());
            }
        }
    }
    pins.sort();
    Ok(pins)
}

fn uninstall(lab: &Running) -> Result<Output> {
    let mut command = Command::new(lab.site.agent_binary());
    process::run(uninstalling(lab, &mut command), Duration::from_secs(20))
}

fn uninstalling<'c>(lab: &Running, command: &'c mut Command) -> &'c mut Command {
    command.args(["uninstall", "--node-name", NODE]);
    command.arg("--bpf-dir").arg(lab.site.bpf_mount(NODE));
    command.arg("--state-dir").arg(lab.site.agent_state(NODE))
}
