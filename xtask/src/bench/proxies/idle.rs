//! Idle connections: what a proxy's user memory grows by for each, in processes that were started for the purpose.
//!
//! Memory that was once used is not always given back, so each sample is one of fresh processes. What they used while they
//! started they give back late, an agent some 25 MB while the first thousand connections come in: so nothing is compared with
//! the memory before. Some connections are held, then some more, and so on; what counts is the slope of the line through all
//! but the first of these points. An allocator that gives back at the next opportunity is at each point behind by what the last
//! step's connections gave up, which the slope does not see. It must not measure time.

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
use crate::shell::line;

/// KiB of all proxies together for each connection of the client.
pub(crate) fn sample(lab: &Running, way: &Way) -> Result<f64> {
    // Threads and pools that any traffic brings are no part of it.
    let done = Load::KeepAlive.run(lab, &way.client, &way.url(Load::KeepAlive), Amount::Requests(640))?;
    ensure!(done.errors == 0, "{} of the first requests failed", done.errors);
    let mut held = Vec::new();
    let points = held_points(lab, way, &mut held);
    for one in held {
        one.end()?;
    }
    let points = points?;
    let fit = Fit::of(&points).context("no slope")?;
    if fit.off > STRAIGHT_KIB {
        let shown: Vec<_> = points.iter().map(|(_, kib)| format!("{kib:.0}")).collect();
        line(&format!(
            "    memory grows by {:.2} KiB a connection, but not on a line: {} KiB",
            fit.slope,
            shown.join(", ")
        ))?;
    }
    Ok(fit.slope)
}

/// How many connections are held, and the KiB in use then, once for each step.
fn held_points(lab: &Running, way: &Way, held: &mut Vec<Held>) -> Result<Vec<(f64, f64)>> {
    let mut points = Vec::new();
    for step in 1..=STEPS {
        held.push(Held::open(lab, way)?);
        thread::sleep(IDLE);
        let kib = settled(way)?;
        if step >= FIRST_THAT_COUNTS {
            points.push((f64::from(step * STEP), kib));
        }
    }
    Ok(points)
}

/// A line through points by least squares.
#[derive(Debug, Clone, Copy)]
struct Fit {
    slope: f64,
    /// How far the point lies off it that lies off most.
    off: f64,
}

impl Fit {
    /// `None` unless there are points at two places.
    fn of(points: &[(f64, f64)]) -> Option<Self> {
        let mean = |of: fn(&(f64, f64)) -> f64| {
            let (sum, count) = points
                .iter()
                .fold((0.0, 0.0), |(sum, count), point| (sum + of(point), count + 1.0));
            sum / count
        };
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let (mut above, mut below) = (0.0, 0.0);
        for point in points {
            above += (point.0 - x) * (point.1 - y);
            below += (point.0 - x) * (point.0 - x);
        }
        if below <= 0.0 {
            return None;
        }
        let slope = above / below;
        let distance = |point: &(f64, f64)| (point.1 - y - slope * (point.0 - x)).abs();
        Some(Self {
            slope,
            off: points.iter().map(distance).fold(0.0, f64::max),
        })
    }
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
            &STEP.to_string(),
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
                bail!("{STEP} more connections are not open after a minute")
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

/// What the proxies hold once that changes no more, or after a quarter of a minute: allocators give back late what is no longer used,
/// and proxies what they keep for the next request.
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

/// How many more are held at each step, and how many steps there are.
const STEP: u32 = 500;
const STEPS: u32 = 7;
/// Until then a process gives back what it used while it started.
const FIRST_THAT_COUNTS: u32 = 3;
/// What a sample's points may lie off their line without a word: a twentieth of what connections add to an agent meanwhile.
const STRAIGHT_KIB: f64 = 2048.0;
/// From when on a connection counts as idle.
const IDLE: Duration = Duration::from_millis(2500);
/// Time between two readings of memory.
const PAUSE: Duration = Duration::from_millis(200);
/// Two readings are the same when they differ by no more than this share.
const SAME: f64 = 0.002;
/// How many readings in a row have to be the same.
const CALM: u32 = 5;
const SETTLE_LIMIT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_what_each_connection_adds_whatever_was_there_before() {
        for before in [0.0, 5000.0] {
            let points: Vec<_> = (1..=4)
                .map(|step| f64::from(step) * 500.0)
                .map(|x| (x, before + 6.0 * x))
                .collect();
            let fit = Fit::of(&points).unwrap();
            assert!((fit.slope - 6.0).abs() < 1e-9 && fit.off < 1e-6, "{fit:?}");
        }
    }

    #[test]
    fn memory_that_is_given_back_in_between_shows() {
        let fit = Fit::of(&[(500.0, 20_000.0), (1000.0, 6000.0), (1500.0, 20_000.0)]).unwrap();
        assert!(fit.off > STRAIGHT_KIB, "{fit:?}");
    }

    #[test]
    fn one_point_has_no_slope() {
        assert!(Fit::of(&[(500.0, 1.0)]).is_none());
        assert!(Fit::of(&[]).is_none());
    }
}
