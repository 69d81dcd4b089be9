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

use super::ask::{addresses, equal, get, until, url};
use super::{Claim, claims};
use crate::process::{self, Output};
use crate::running::Running;
use crate::wire::Capture;

pub(super) const CLAIMS: &[Claim] = claims![
    a_killed_agent_refuses_new_connections_both_ways_and_sends_no_plaintext,
    the_next_agent_serves_the_same_pods_within_three_seconds,
    an_agent_that_is_told_to_end_leaves_no_gap_either,
    a_link_that_is_detached_by_hand_is_repaired_and_counted_within_five_seconds,
    uninstall_is_refused_while_the_agent_runs,
    uninstall_removes_all_that_was_pinned_and_the_pods_are_free,
];

const NODE: &str = "node-a";
const CLIENT: &str = "shop/client";
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
        program.is_some_and(process::ProcessId::is_alive),
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
    command.args(["uninstall", "--node-name", NODE]);
    command.arg("--bpf-dir").arg(lab.site.bpf_mount(NODE));
    command.arg("--state-dir").arg(lab.site.agent_state(NODE));
    process::run(&mut command, Duration::from_secs(20))
}
