//! Idle connections: what a proxy's user memory grows by for each, in processes that were started for the purpose.
//!
//! Memory that was once used is not always given back, so each sample is one of fresh processes. It must not measure time.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::input::Input;
use mesh_tests::process::{self, ProcessId};
use mesh_tests::running::Running;
use mesh_tests::{agent, sandbox};
use nix::sys::signal::Signal;

use crate::bench::proxies::load::{Amount, Load};
use crate::bench::proxies::way::{FAR, NEAR, Way};

/// KiB of all proxies together for each connection of the client.
pub(crate) fn sample(lab: &Running, way: &Way) -> Result<f64> {
    // Threads and pools that any traffic brings are no part of it.
    let done = Load::KeepAlive.run(lab, &way.client, &way.url(Load::KeepAlive), Amount::Requests(640))?;
    ensure!(done.errors == 0, "{} of the first requests failed", done.errors);
    let before = settled(way)?;
    let held = Held::open(lab, way)?;
    let after = settled(way);
    held.end()?;
    let after = after?;
    Ok((after - before) / f64::from(CONNECTIONS))
}

/// Ends the agents and starts them again; without the trial of the splice, which uses memory and gives it back later.
pub(crate) fn fresh_agents(lab: &Running) -> Result<()> {
    let mut arguments = Input::read(&lab.state.input)?.lab.agent;
    arguments.extend(["--splice", "off"].map(str::to_owned));
    for node in [NEAR, FAR] {
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &arguments)?;
    }
    [NEAR, FAR].into_iter().try_for_each(|node| lab.wait_ready(node))
}

/// A client that holds connections.
struct Held(Child);

impl Held {
    fn open(lab: &Running, way: &Way) -> Result<Self> {
        let told = lab.site.run_dir().join("held");
        if told.exists() {
            fs::remove_file(&told).context("remove what an earlier client told")?;
        }
        let log = lab.site.logs().join("hold.log");
        let program = [
            "python3",
            "hold.py",
            told.to_str().context("a path that is no text")?,
            &way.host,
            &way.port(Load::KeepAlive).to_string(),
            &CONNECTIONS.to_string(),
        ];
        let program = program.map(str::to_owned);
        let command = lab.command(&way.client.parse()?, &program, &lab.state.input)?;
        let held = Self(sandbox::start(command, &log, &log)?);
        let id = ProcessId::of(held.0.id())?;
        let all = process::wait_until(Duration::from_mins(1), || {
            if !id.is_alive() {
                bail!("the client ended:\n{}", agent::tail(&log, 3));
            }
            Ok(fs::read_to_string(&told)
                .is_ok_and(|text| text == "held")
                .then_some(()))
        });
        match all {
            Ok(Some(())) => Ok(held),
            Ok(None) => {
                held.end()?;
                bail!("{CONNECTIONS} connections are not open after a minute")
            }
            Err(error) => {
                held.end()?;
                Err(error)
            }
        }
    }

    fn end(mut self) -> Result<()> {
        process::reap(&mut self.0)
    }
}

/// What the proxies hold once that changes no more, or after half a minute: allocators give back late what is no longer used.
fn settled(way: &Way) -> Result<f64> {
    let (mut last, mut calm) = (memory(way)?, 0);
    let settled = process::wait_until(SETTLE_LIMIT, || {
        thread::sleep(PAUSE);
        let now = memory(way)?;
        calm = if (now - last).abs() <= last * SAME {
            calm + 1
        } else {
            0
        };
        last = now;
        Ok((calm == CALM).then_some(now))
    })?;
    Ok(settled.unwrap_or(last))
}

fn memory(way: &Way) -> Result<f64> {
    way.proxies.iter().map(|proxy| anonymous(*proxy)).sum()
}

/// KiB of memory of its own that a process has touched; neither its program nor the kernel's buffers.
fn anonymous(process: ProcessId) -> Result<f64> {
    let path = format!("/proc/{}/status", process.pid);
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .with_context(|| format!("{path} has no RssAnon"))?
        .parse()?)
}

/// How many are held.
pub(crate) const CONNECTIONS: u32 = 2000;
/// Time between two readings of memory.
const PAUSE: Duration = Duration::from_millis(200);
/// Two readings are the same when they differ by no more than this share.
const SAME: f64 = 0.002;
/// How many readings in a row have to be the same.
const CALM: u32 = 5;
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
