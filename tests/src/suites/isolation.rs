//! Isolation: what one pod does at full blast takes neither the agent's memory nor the answers of its neighbours.
//!
//! How long neighbours wait is measured by `cargo xtask bench isolation`; no time decides here.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{addresses, equal, get};
use super::{Claim, claims};
use crate::process::{self, ProcessId};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    bodies_of_a_gigabyte_to_a_sleeping_server_on_the_same_node_stay_out_of_memory,
    bodies_of_a_gigabyte_to_a_sleeping_server_on_the_other_node_stay_out_of_memory,
];

fn bodies_of_a_gigabyte_to_a_sleeping_server_on_the_same_node_stay_out_of_memory(
    lab: &Running,
) -> Result<()> {
    sleeps(lab, "shop/near", &["node-a"])
}

fn bodies_of_a_gigabyte_to_a_sleeping_server_on_the_other_node_stay_out_of_memory(
    lab: &Running,
) -> Result<()> {
    sleeps(lab, "shop/far", &["node-a", "node-b"])
}

/// A hundred bodies are sent to `pod`, where nobody reads them, by way of the agents of `nodes`.
fn sleeps(lab: &Running, pod: &str, nodes: &[&str]) -> Result<()> {
    let before = nodes.iter().map(|node| Peak::begin(lab, node));
    let before = before.collect::<Result<Vec<_>>>()?;
    let sleeper = Program::start(lab, pod, &["sleeper.py", PORT])?;
    let inside = ProcessId::of(sleeper.0.id())?;
    let port = PORT.parse()?;
    let listens = process::wait_until(LIMIT, || Ok(crate::sandbox::listens(inside, port)?.then_some(())))?;
    listens.context("the server that sleeps does not listen")?;
    let host = addresses(lab, pod)?[0].to_string();
    let bodies = Program::start(lab, STORMING, &["bodies.py", &host, PORT, BODIES, SECONDS])?;
    let said = answers_while(lab, bodies);
    sleeper.end()?;
    let said: Value = serde_json::from_str(&said?).context("what the storm says")?;
    equal("broken connections", said.get("errors"), Some(&Value::from(0)))?;
    let taken = said.get("bytes").and_then(Value::as_u64);
    ensure!(
        taken.context("no bytes")? >= WINDOWS,
        "too little was sent to fill anything: {said}"
    );
    for peak in before {
        peak.judge()?;
    }
    Ok(())
}

/// Neighbours are answered for as long as the storm lasts; what it says in the end.
fn answers_while(lab: &Running, storm: Program) -> Result<String> {
    let id = ProcessId::of(storm.0.id())?;
    while id.is_alive() {
        for server in ["near", "far"] {
            equal(
                server,
                get(lab, NEIGHBOUR, &format!("http://{server}/"))?.status,
                200,
            )?;
        }
    }
    storm.said()
}

/// How large an agent has been.
struct Peak {
    agent: ProcessId,
    node: String,
    before_kib: u64,
}

impl Peak {
    fn begin(lab: &Running, node: &str) -> Result<Self> {
        let agent = lab.agent(node)?;
        let path = format!("/proc/{}/clear_refs", agent.pid);
        // proc(5): 5 resets the peak resident set size.
        fs::write(&path, "5").with_context(|| format!("write {path}"))?;
        Ok(Self {
            before_kib: highest(agent)?,
            agent,
            node: node.to_owned(),
        })
    }

    fn judge(&self) -> Result<()> {
        let (before, highest) = (self.before_kib, highest(self.agent)?);
        ensure!(
            highest < before + BOUND_KIB,
            "the agent of {} grew from {before} to {highest} KiB",
            self.node
        );
        Ok(())
    }
}

/// Resident KiB at most since that was last reset.
fn highest(agent: ProcessId) -> Result<u64> {
    let path = format!("/proc/{}/status", agent.pid);
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("{path} has no VmHWM"))?.parse()?)
}

/// A program of the lab that runs in a pod; ended at the latest when it is dropped.
struct Program(Child);

impl Program {
    fn start(lab: &Running, pod: &str, words: &[&str]) -> Result<Self> {
        let (name, arguments) = words.split_first().context("no program")?;
        let program = ["python3".to_owned(), format!("../programs/{name}")];
        let arguments = arguments.iter().map(|&word| word.to_owned());
        let program: Vec<_> = program.into_iter().chain(arguments).collect();
        let mut command = lab.command(&pod.parse()?, &program, &lab.state.input)?;
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(command.spawn().with_context(|| format!("start {name}"))?))
    }

    /// What it said, once it has ended by itself.
    fn said(mut self) -> Result<String> {
        let status = process::wait(&mut self.0, LIMIT)?;
        let mut said = String::new();
        let mut output = self.0.stdout.take().context("no output")?;
        std::io::Read::read_to_string(&mut output, &mut said)?;
        ensure!(status.success(), "it ended with {status}: {said}");
        Ok(said)
    }

    fn end(mut self) -> Result<()> {
        process::reap(&mut self.0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // After a failure that is told already; one that was waited for is no error.
        drop(process::reap(&mut self.0));
    }
}

const STORMING: &str = "shop/client";
const NEIGHBOUR: &str = "shop/client-b";
/// Nobody has declared it.
const PORT: &str = "9320";
const BODIES: &str = "100";
/// How long the bodies press on.
const SECONDS: &str = "5";
/// A tenth of a megabyte of each body at the least.
const WINDOWS: u64 = 100 * 100 * 1024;
/// What an agent may grow by: 640 KiB for each body.
const BOUND_KIB: u64 = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(30);
