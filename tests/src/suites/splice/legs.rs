//! The connections between applications and their agents: spliced like direct flows where the agent relays bytes, without harm
//! to those who read in the most impatient way.
//!
//! `client` is a pod of `node-a`, `client-b` of `node-b`; what passes between them passes both agents.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::wait_for_splice;
use crate::running::Running;
use crate::suites::ask::until;
use crate::suites::program::Program;

const NODES: [&str; 2] = ["node-a", "node-b"];
const CLIENT: &str = "shop/client";
const SERVER: &str = "shop/client-b";
const PORT: &str = "7300";
const MEGABYTES_100: &str = "100000000";

pub(super) fn opaque_bytes_between_nodes_are_spliced_at_both_ends(lab: &Running) -> Result<()> {
    // Each message is counted on its way there and back; the first ones of a connection take TCP.
    Server::start(lab)?.dial_spliced(&["echo", "2000"], 2.0 * 1500.0 * 64.0)
}

pub(super) fn http_between_nodes_is_not_spliced(lab: &Running) -> Result<()> {
    wait_for_both(lab)?;
    let before = spliced(lab)?;
    let urls = ["http://fast/"; 100];
    let curl = [&["curl", "--silent", "--fail", "--noproxy", "*"][..], &urls].concat();
    // One connection each, on which a hundred answers are read.
    for _ in 0..3 {
        lab.exec(CLIENT, &curl)?.success()?;
    }
    let now = spliced(lab)?;
    ensure!(
        now.iter().zip(before).all(|(now, before)| now - before < 0.5),
        "bytes of HTTP were spliced: {before:?}, {now:?}"
    );
    Ok(())
}

/// Each end pauses until whatever there is room for has come, and reads short. What then lies in TCP behind what was spliced
/// would be waited for for ever.
pub(super) fn a_short_reader_that_falls_far_behind_gets_100_megabytes_each_way(lab: &Running) -> Result<()> {
    // What waits is full at once, and full again after every pause.
    Server::start(lab)?.dial_spliced(&["bulk", MEGABYTES_100], 4e6)
}

pub(super) fn a_spliced_leg_half_closes(lab: &Running) -> Result<()> {
    Server::start(lab)?.dial_spliced(&["half-close"], SOME)
}

pub(super) fn a_reset_passes_spliced_legs(lab: &Running) -> Result<()> {
    Server::start(lab)?.dial_spliced(&["reset"], SOME)
}

/// The bytes are in the agent's hands: such a connection ends with it, as it does over TCP, and at once.
pub(super) fn a_spliced_leg_ends_with_its_agent(lab: &Running) -> Result<()> {
    let server = Server::start(lab)?;
    let mut client = Program::start(&mut server.client(&["stay"])?)?;
    client.says("spliced")?;
    lab.end_agent("node-a", Signal::SIGKILL)?;
    let ended = client.says("whole");
    lab.start_agent("node-a")?;
    ended?;
    wait_for_both(lab)
}

/// A server in `client-b` for as long as it lives.
struct Server<'l> {
    lab: &'l Running,
    addr: String,
    _program: Program,
}

impl<'l> Server<'l> {
    fn start(lab: &'l Running) -> Result<Self> {
        wait_for_both(lab)?;
        let addr = lab.pod(&SERVER.parse()?)?.ipv4.to_string();
        let program = ["python3", "../programs/short_reader.py", "serve", PORT].map(str::to_owned);
        let mut command = lab.command(&SERVER.parse()?, &program, &lab.state.input)?;
        let mut program = Program::start(&mut command)?;
        program.says("ready")?;
        let server = Self {
            lab,
            addr,
            _program: program,
        };
        // The first connection tells the agents that they relay bytes there, the second how the applications read.
        server.dial(&["echo", "100"])?;
        server.dial(&["echo", "100"])?;
        Ok(server)
    }

    fn words<'a>(&'a self, what: &[&'a str]) -> Vec<&'a str> {
        let dial = ["python3", "../programs/short_reader.py", "dial", &self.addr, PORT];
        [&dial[..], what].concat()
    }

    /// Has the client do something, and waits until it is done.
    fn dial(&self, what: &[&str]) -> Result<()> {
        let output = self.lab.exec_within(LIMIT, CLIENT, &self.words(what))?;
        let said = output.success().with_context(|| format!("{what:?}"))?.stdout;
        ensure!(said.trim().ends_with("whole"), "{what:?}: {said}");
        Ok(())
    }

    /// As [`Server::dial`]; and each agent has seen at least so many bytes spliced.
    fn dial_spliced(&self, what: &[&str], least: f64) -> Result<()> {
        let before = spliced(self.lab)?;
        self.dial(what)?;
        until(Duration::from_secs(10), "both agents count spliced bytes", || {
            let now = spliced(self.lab)?;
            Ok(now.iter().zip(before).all(|(now, before)| now - before >= least))
        })
        .map(drop)
    }

    fn client(&self, what: &[&str]) -> Result<Command> {
        let words: Vec<_> = self.words(what).into_iter().map(str::to_owned).collect();
        self.lab.command(&CLIENT.parse()?, &words, &self.lab.state.input)
    }
}

/// Bytes that each node's agent has seen spliced on its legs.
fn spliced(lab: &Running) -> Result<[f64; 2]> {
    let of = |node| Ok::<_, anyhow::Error>(lab.metrics(node)?.sum("mesh_leg_spliced_bytes_total", &[]));
    Ok([of(NODES[0])?, of(NODES[1])?])
}

fn wait_for_both(lab: &Running) -> Result<()> {
    NODES.iter().try_for_each(|node| wait_for_splice(lab, node))
}

/// Of the 200 messages that are sent there and back before anything else is done.
const SOME: f64 = 2.0 * 100.0 * 64.0;
/// For a program that moves 200 MB through two agents without optimisation.
const LIMIT: Duration = Duration::from_mins(2);
