//! Crashes of an agent that starts: killed at one moment after another, over what an earlier one left and over nothing.
//!
//! Each claim leaves the agent of every node running. It must not know what the steps of a start are: a moment is a
//! part of the time that a whole start takes, or a number of pins, which come one by one.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ask::{Reply, addresses, equal, get, until, url};
use super::{Claim, claims};
use crate::process;
use crate::running::Running;
use crate::wire::Capture;

pub(super) const CLAIMS: &[Claim] = claims![
    an_agent_killed_at_any_moment_of_a_restart_lets_nothing_past_it,
    an_agent_killed_at_any_moment_of_its_first_start_leaves_no_pod_half_captured,
];

const NODE: &str = "node-a";
const CLIENT: &str = "shop/client";
const STRANGER: &str = "outside/stranger";
/// What tcpdump would show of a request of these claims that is not encrypted.
const MARK: &str = "seen-only-by-the-server";
/// How many moments of a start are tried.
const MOMENTS: u32 = 10;

fn an_agent_killed_at_any_moment_of_a_restart_lets_nothing_past_it(lab: &Running) -> Result<()> {
    let before = pins(lab)?;
    ensure!(!before.is_empty(), "nothing is pinned");
    lab.end_agent(NODE, Signal::SIGKILL)?;
    let began = Instant::now();
    lab.start_agent(NODE)?;
    let whole = began.elapsed();
    lab.end_agent(NODE, Signal::SIGKILL)?;
    let capture = Capture::start(lab, "crashes")?;
    let far = url(addresses(lab, "shop/far")?[0], 8080, &format!("/{MARK}"));
    for moment in 0..MOMENTS {
        lab.start_agent_unready(NODE)?;
        // Which moment it is says what is tried, not whether the claim holds.
        thread::sleep(whole * moment / MOMENTS);
        lab.end_agent(NODE, Signal::SIGKILL)?;
        let said = format!("killed after {moment}/{MOMENTS} of a start");
        for target in [&format!("http://far/{MARK}"), &far] {
            let reply = get(lab, CLIENT, target)?;
            equal(&format!("{said}: {target}"), reply.status, 0)?;
            is_refused_at_once(&reply, &said)?;
        }
    }
    let wire = capture.stop()?;
    equal(
        "plaintext on the wire",
        (wire.plaintext_packets, wire.plaintext_samples.clone()),
        (0, Vec::<String>::new()),
    )?;
    ensure!(!wire.contains(MARK.as_bytes()), "a path was on the wire");
    starts_well(lab, &before)
}

/// Where no agent ever was, a pod speaks as if there were no mesh until it is one of the mesh; from then on it is
/// refused without an agent. There is nothing in between.
fn an_agent_killed_at_any_moment_of_its_first_start_leaves_no_pod_half_captured(lab: &Running) -> Result<()> {
    let whole = pins(lab)?;
    let client = addresses(lab, CLIENT)?[0].to_string();
    let stranger = addresses(lab, STRANGER)?[0].to_string();
    let far = url(addresses(lab, "shop/far")?[0], 8080, "/");
    let near = url(addresses(lab, "shop/near")?[0], 8080, "/");
    let (mut refused, mut plain) = (0, 0);
    for moment in 0..MOMENTS {
        lab.end_agent(NODE, Signal::SIGKILL)?;
        uninstall(lab)?;
        lab.start_agent_unready(NODE)?;
        let enough = whole.len() * usize::try_from(moment)? / usize::try_from(MOMENTS)?;
        until(START_LIMIT, &format!("there are {enough} pins"), || {
            Ok(pins(lab)?.len() >= enough)
        })?;
        lab.end_agent(NODE, Signal::SIGKILL)?;
        let said = format!("killed with {} of {} pins", pins(lab)?.len(), whole.len());
        for (pod, own, target) in [(CLIENT, &client, &far), (STRANGER, &stranger, &near)] {
            let reply = get(lab, pod, target)?;
            if reply.status == 0 {
                is_refused_at_once(&reply, &said)?;
                refused += 1;
            } else {
                equal(
                    &format!("{said}: whom the server of {pod} sees"),
                    &reply.says("peer")?,
                    own,
                )?;
                plain += 1;
            }
        }
        starts_well(lab, &whole).context(said)?;
    }
    ensure!(
        refused > 0 && plain > 0,
        "these were no moments of interest: {refused} refused, {plain} without a mesh"
    );
    Ok(())
}

/// The next agent serves, every pod is one of the mesh, and what is pinned is neither less nor more than before.
fn starts_well(lab: &Running, whole: &[PathBuf]) -> Result<()> {
    lab.start_agent(NODE)?;
    let halves = || -> Result<Vec<Value>> {
        let status = lab.status(NODE)?;
        let pods = status.pointer("/enrolment/pods").and_then(Value::as_array);
        let mut pods = pods.context("no pods")?.clone();
        pods.retain(|pod| {
            pod.get("present") != pod.get("wanted") || pod.get("why_not") != Some(&Value::Null)
        });
        Ok(pods)
    };
    until(START_LIMIT, "every pod is enrolled", || Ok(halves()?.is_empty()))
        .with_context(|| format!("{:?}", halves()))?;
    equal("pins", pins(lab)?, whole)?;
    equal("served", get(lab, CLIENT, "http://far/")?.status, 200)?;
    equal(
        "served from the other node",
        get(lab, "shop/client-b", "http://near/")?.status,
        200,
    )
}

fn is_refused_at_once(reply: &Reply, said: &str) -> Result<()> {
    ensure!(
        reply.body.is_empty() && !reply.complaint.contains("timed out"),
        "{said}: refused by silence only: {reply:?}"
    );
    Ok(())
}

/// What is pinned; a directory may go while it is read.
fn pins(lab: &Running) -> Result<Vec<PathBuf>> {
    let mut dirs = vec![lab.site.bpf_mount(NODE).join("mesh")];
    let mut pins = Vec::new();
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("list {}", dir.display()))?,
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
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

fn uninstall(lab: &Running) -> Result<()> {
    let mut command = Command::new(lab.site.agent_binary());
    command.args(["uninstall", "--node-name", NODE]);
    command.arg("--bpf-dir").arg(lab.site.bpf_mount(NODE));
    command.arg("--state-dir").arg(lab.site.agent_state(NODE));
    process::run(&mut command, START_LIMIT)?.success()?;
    equal("pins after the removal", pins(lab)?.len(), 0)
}

/// More than a start takes on a machine with much else to do.
const START_LIMIT: Duration = Duration::from_mins(1);
