//! Hand-over: the agent of a node is replaced by one that waited for it, and nobody notices.
//!
//! Each claim leaves one agent on every node, which may be succeeded and drains for as long as anybody needs it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::ask::{equal, get, until};
use super::talker::Talker;
use super::{Claim, claims, steady};
use crate::agent;
use crate::process::{self, Output, ProcessId};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    a_second_agent_is_refused_unless_it_may_wait,
    a_standby_is_ready_and_a_third_agent_is_refused,
    a_standby_that_is_told_to_end_leaves_the_other_one_serving,
    an_agent_is_replaced_under_load_and_no_connection_is_refused,
    what_was_under_way_ends_at_the_agent_that_had_it,
    a_standby_that_is_not_prepared_takes_nothing_over,
    a_killed_agent_is_succeeded_at_once,
];

const NODE: &str = "node-a";
const CLIENT: &str = "shop/client";
/// A machine that is busy verifies programs for that long.
const PATIENCE: Duration = Duration::from_mins(1);

fn a_second_agent_is_refused_unless_it_may_wait(lab: &Running) -> Result<()> {
    let refused = refusal(lab, &[])?;
    ensure!(
        refused.contains("another agent uses") && refused.contains("--handover wait"),
        "{refused}"
    );
    equal("served", get(lab, CLIENT, "http://far/")?.status, 200)
}

fn a_standby_is_ready_and_a_third_agent_is_refused(lab: &Running) -> Result<()> {
    let standby = Standby::prepared(lab, &[])?;
    let refused = refusal(lab, &["--handover", "wait"])?;
    ensure!(refused.contains("waits for its place already"), "{refused}");
    equal("of the standby", standby.says(lab)?.trim(), "ok: standby")?;
    standby.end(lab)
}

fn a_standby_that_is_told_to_end_leaves_the_other_one_serving(lab: &Running) -> Result<()> {
    let standby = Standby::prepared(lab, &[])?;
    standby.end(lab)?;
    equal("served", get(lab, CLIENT, "http://far/")?.status, 200)?;
    ensure!(lab.agent(NODE)?.is_alive(), "the agent ended with its standby");
    Ok(())
}

fn an_agent_is_replaced_under_load_and_no_connection_is_refused(lab: &Running) -> Result<()> {
    // There and back: each pair of ports is left once, and come to once.
    steady::beside(lab, CLIENT, 20.0, || replace(lab).and_then(|()| replace(lab)))
}

fn what_was_under_way_ends_at_the_agent_that_had_it(lab: &Running) -> Result<()> {
    let before = lab.agent(NODE)?;
    // So long that only the end of the conversation ends it.
    let first = Standby::prepared(lab, &["--drain-timeout-s", "600"])?;
    first.succeeds(lab, before, Signal::SIGTERM)?;
    gone(before)?;
    let mut talker = Talker::start(lab, CLIENT, &["shape-far", "7100"])?;
    let said = |talker: &mut Talker, words: &str| -> Result<()> {
        let line = talker.say(words)?;
        ensure!(line.contains(words), "the server says {line}");
        Ok(())
    };
    talker.say("echo")?;
    said(&mut talker, "before")?;
    let old = lab.agent(NODE)?;
    Standby::prepared(lab, &[])?.succeeds(lab, old, Signal::SIGTERM)?;
    said(&mut talker, "after")?;
    ensure!(old.is_alive(), "it did not wait for what was under way");
    equal("new", get(lab, CLIENT, "http://far/")?.status, 200)?;
    talker.end()?;
    gone(old)
}

fn a_standby_that_is_not_prepared_takes_nothing_over(lab: &Running) -> Result<()> {
    // What should be a token is none: it gets no certificate.
    let nothing = lab.site.agent_state(NODE).join("no-token");
    fs::write(&nothing, "").context("write a file")?;
    let file = nothing.display().to_string();
    let root = lab.site.ca_dir().join("root.pem").display().to_string();
    let before = said(lab)?.len();
    let standby = Standby::begin(
        lab,
        &[
            "--ca-addr",
            "127.0.0.1:9",
            "--ca-root-file",
            &root,
            "--ca-token-file",
            &file,
        ],
    )?;
    until(PATIENCE, "it is refused a certificate", || {
        let said = said(lab)?;
        Ok(said
            .get(before..)
            .is_some_and(|new| new.contains("cannot get a certificate")))
    })?;
    let probed = standby.probe(lab)?;
    let no = format!("{}{}", probed.stdout, probed.stderr);
    ensure!(no.contains("waiting for: first configuration"), "it says {no}");
    standby.end(lab)?;
    fs::remove_file(&nothing).context("remove a file")?;
    equal("served", get(lab, CLIENT, "http://far/")?.status, 200)
}

fn a_killed_agent_is_succeeded_at_once(lab: &Running) -> Result<()> {
    let old = lab.agent(NODE)?;
    let standby = Standby::prepared(lab, &[])?;
    standby.succeeds(lab, old, Signal::SIGKILL)?;
    equal("served", get(lab, CLIENT, "http://far/")?.status, 200)?;
    equal("into it", get(lab, "shop/client-b", "http://near/")?.status, 200)
}

/// Replaces the agent once, and waits until the one before has ended.
fn replace(lab: &Running) -> Result<()> {
    let old = lab.agent(NODE)?;
    Standby::prepared(lab, &[])?.succeeds(lab, old, Signal::SIGTERM)?;
    gone(old)
}

fn gone(agent: ProcessId) -> Result<()> {
    until(PATIENCE, "the agent before ends", || Ok(!agent.is_alive())).map(drop)
}

/// What an agent says that ends at once.
fn refusal(lab: &Running, more: &[&str]) -> Result<String> {
    let before = said(lab)?.len();
    let more: Vec<_> = more.iter().map(|&word| word.to_owned()).collect();
    let mut child = agent::start_with(&lab.site, NODE, &lab.site.agent_binary(), &more)?;
    let status = process::wait(&mut child, PATIENCE)?;
    ensure!(status.code() == Some(1), "it ends with {status}");
    Ok(said(lab)?.get(before..).unwrap_or_default().to_owned())
}

/// All that the agents of the node have logged.
fn said(lab: &Running) -> Result<String> {
    fs::read_to_string(agent::log(&lab.site, NODE, "stderr")).context("read the log of an agent")
}

/// An agent beside the one that serves.
struct Standby {
    id: ProcessId,
    socket: PathBuf,
}

impl Standby {
    /// Starts it, and waits until it is ready.
    fn prepared(lab: &Running, more: &[&str]) -> Result<Self> {
        let standby = Self::begin(lab, more)?;
        until(PATIENCE, "the standby is ready", || {
            ensure!(standby.id.is_alive(), "the standby ended");
            Ok(standby.probe(lab)?.stdout.trim() == "ok: standby")
        })?;
        Ok(standby)
    }

    fn begin(lab: &Running, more: &[&str]) -> Result<Self> {
        let serving = lab.agent(NODE)?;
        let socket = lab
            .site
            .agent_state(NODE)
            .join(format!("probe-after-{}", serving.pid));
        let more: Vec<_> = ["--handover", "wait", "--probe-socket"]
            .into_iter()
            .map(str::to_owned)
            .chain([socket.display().to_string()])
            .chain(more.iter().map(|&word| word.to_owned()))
            .collect();
        let mut child = agent::start_with(&lab.site, NODE, &lab.site.agent_binary(), &more)?;
        let id = ProcessId::of(child.id())?;
        // Takes its exit status whenever it ends, so that no zombie stays.
        thread::spawn(move || child.wait());
        Ok(Self { id, socket })
    }

    /// Ends `serving` by a signal, and waits until this one serves in its place.
    fn succeeds(self, lab: &Running, serving: ProcessId, by: Signal) -> Result<()> {
        serving.signal(by)?;
        lab.is_agent_of(NODE, self.id)?;
        until(PATIENCE, "the standby serves", || {
            ensure!(self.id.is_alive(), "the standby ended");
            Ok(self.probe(lab)?.stdout.trim() == "ok: serves")
        })?;
        lab.wait_ready(NODE)
    }

    /// Ends it while it waits.
    fn end(self, lab: &Running) -> Result<()> {
        self.id.signal(Signal::SIGTERM)?;
        gone(self.id)?;
        ensure!(lab.agent(NODE)?.is_alive(), "the agent that serves ended");
        Ok(())
    }

    fn says(&self, lab: &Running) -> Result<String> {
        Ok(self.probe(lab)?.success()?.stdout)
    }

    fn probe(&self, lab: &Running) -> Result<Output> {
        let mut command = Command::new(lab.site.agent_binary());
        command
            .args(["probe", "ready", "--probe-socket"])
            .arg(&self.socket);
        process::run(&mut command, Duration::from_secs(20))
    }
}
