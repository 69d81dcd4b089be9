//! `cargo xtask bench isolation`: what a storm of one pod costs the requests of another pod of its node.
//!
//! A quiet pair of pods and a storming one, in the mesh and outside of it; blocks of storm, calm, calm, storm. Twice: with the
//! agent on a core of its own and the storm's programs idle-class on the other, so that only the agent can make the quiet
//! pair wait; and with everything on all cores as the kernel likes. It must not judge a time: it fails where a request of the
//! quiet pair failed.

mod place;
mod quiet;
mod storm;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::interrupt;
use mesh_tests::lab::Options;
use mesh_tests::process;
use mesh_tests::running::Running;
use mesh_tests::site::Site;
use serde::Serialize;
use serde_json::{Value, json};

use crate::bench::blocks::{Block, Comparison, Side};
use crate::bench::isolation::place::{NODE, Pods, Sharing};
use crate::bench::isolation::quiet::Waits;
use crate::bench::isolation::storm::{Kind, Tally};
use crate::report::ReportTo;
use crate::shell::line;
use crate::{agent, own_lab, setup, workspace};

/// How to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Two short blocks each: to see that it works, not how well
    #[arg(long)]
    quick: bool,
    /// Only this storm; may be given several times
    #[arg(long, value_name = "KIND")]
    storm: Vec<Kind>,
    /// Only this way to share the cores; may be given several times
    #[arg(long, value_name = "WAY")]
    sharing: Vec<Sharing>,
    /// Only these pods; may be given several times
    #[arg(long, value_name = "PODS")]
    pods: Vec<Pods>,
    /// Measure this agent instead of building one
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Name of the lab; ends in -lab
    #[arg(long, value_name = "NAME", default_value = "isolation-lab")]
    lab: String,
    #[command(flatten)]
    report: ReportTo,
}

/// What was found out of one storm; times in microseconds, ratios of storm by calm.
#[derive(Debug, Serialize)]
struct Found {
    storm: Kind,
    sharing: Sharing,
    pods: Pods,
    p50: Comparison,
    p99: Comparison,
    /// That of all blocks as if they were one: beside the storm, and alone.
    p99_of_all: [f64; 2],
    /// Requests of the quiet pair.
    requests: usize,
    /// Of those, how many were not answered with 200.
    failed: usize,
    /// What the storm did, in all its samples.
    stormed: Tally,
    /// Resident memory of the agent before the first storm, and at its height in any; absent without an agent.
    rss_kib: Option<[u64; 2]>,
}

/// One reading of the quiet pair, and of the storm beside it.
struct Sample {
    waits: Waits,
    stormed: Option<Tally>,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    setup::for_bench(false)?;
    let agent = agent::given_or_optimised(arguments.agent.as_ref())?;
    let options = Options {
        site: Site::named(&arguments.lab)?,
        dir: workspace::root().join("tests/lab/bench/isolation"),
        agent: Some(agent),
        tools: workspace::lab_tools(),
    };
    let found = own_lab::with(
        &options,
        "one node; a quiet and a storming pair of pods, twice",
        |lab| measure(lab, arguments),
    )?;
    arguments
        .report
        .write(&json!({ "storms": found, "quick": arguments.quick }))?;
    let failed: usize = found.iter().map(|found| found.failed).sum();
    ensure!(failed == 0, "{failed} requests of the quiet pair failed");
    Ok(())
}

fn measure(lab: &Running, arguments: &Arguments) -> Result<Vec<Found>> {
    wait_for_trial(lab)?;
    line("  the quiet pair's requests, storm by calm: median [least to most] of the blocks; microseconds\n")?;
    let mut all = Vec::new();
    let mut ways = wanted(&arguments.sharing, &Sharing::ORDINARY);
    ways.sort_unstable();
    for sharing in ways {
        for kind in wanted(&arguments.storm, &Kind::ALL) {
            for pods in wanted(&arguments.pods, &Pods::ALL) {
                place::arrange(lab, pods, sharing)?;
                let is_quick = arguments.quick;
                let bench = Bench {
                    lab,
                    kind,
                    sharing,
                    pods,
                    is_quick,
                };
                let found = bench.found();
                let found = found.with_context(|| format!("a storm of {kind} in {pods}, {sharing}"))?;
                line(&format!("  {found}"))?;
                all.push(found);
            }
        }
    }
    Ok(all)
}

/// What was named, or else the ordinary ones.
fn wanted<T: Clone>(named: &[T], ordinary: &[T]) -> Vec<T> {
    if named.is_empty() {
        ordinary.to_vec()
    } else {
        named.to_vec()
    }
}

/// The agent tries the splice for some seconds when it starts; that is nobody's storm.
fn wait_for_trial(lab: &Running) -> Result<()> {
    let ended = process::wait_until(Duration::from_mins(1), || {
        let status = lab.status(NODE)?;
        let state = status.pointer("/splice/state").and_then(Value::as_str);
        Ok((state.context("no splice in the status")? != "trying").then_some(()))
    })?;
    ended.context("the trial of the splice does not end")
}

/// One storm, in one place.
struct Bench<'l> {
    lab: &'l Running,
    kind: Kind,
    sharing: Sharing,
    pods: Pods,
    is_quick: bool,
}

impl Bench<'_> {
    fn found(&self) -> Result<Found> {
        let (blocks, seconds) = if self.is_quick { (2, 1) } else { (5, 3) };
        let before = self.pods.memory(self.lab)?;
        // Pools fill; the first storm says nothing.
        self.sample(Side::Ours, 1)?;
        let mut taken = Vec::new();
        for _ in 0..blocks {
            interrupt::check()?;
            taken.push(Block::take(|side| self.sample(side, seconds))?);
        }
        let after = self.pods.highest_memory(self.lab)?;
        let samples = || {
            taken
                .iter()
                .flat_map(|block| block.of(Side::Ours).iter().chain(block.of(Side::Theirs)))
        };
        let compared = |figure: fn(&Waits) -> f64| {
            Comparison::of(&taken, |sample: &Sample| figure(&sample.waits)).context("no blocks")
        };
        let of_all = |side| {
            let samples = taken.iter().flat_map(|block| block.of(side));
            Waits::together(samples.map(|sample| &sample.waits)).p99()
        };
        Ok(Found {
            storm: self.kind,
            sharing: self.sharing,
            pods: self.pods,
            p50: compared(Waits::p50)?,
            p99: compared(Waits::p99)?,
            p99_of_all: [Side::Ours, Side::Theirs].map(of_all),
            requests: samples().map(|sample| sample.waits.count()).sum(),
            failed: samples().map(|sample| sample.waits.failed()).sum(),
            stormed: samples().filter_map(|sample| sample.stormed).sum(),
            rss_kib: before.zip(after).map(<[u64; 2]>::from),
        })
    }

    /// The quiet pair for so many seconds: beside the storm on "our" side, alone on "theirs".
    fn sample(&self, side: Side, seconds: u32) -> Result<Sample> {
        let storm = match side {
            Side::Ours => Some(self.kind.begin(self.lab, self.pods, self.sharing, seconds)?),
            Side::Theirs => None,
        };
        let waits = quiet::ask(self.lab, self.pods, self.sharing, seconds);
        let stormed = storm.map(storm::Storm::end).transpose()?;
        Ok(Sample {
            waits: waits?,
            stormed,
        })
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            p50,
            p99,
            p99_of_all: [beside, alone],
            ..
        } = self;
        write!(
            f,
            "{:<12} {:<6} {:<8} p99 {:.2} [{:.2} to {:.2}] {:.0} by {:.0}, of all {:.2}, {beside:.0} by {alone:.0}  p50 {:.2}, {:.0} by {:.0}  storm: {}",
            self.storm,
            self.pods,
            self.sharing,
            p99.ratio,
            p99.min,
            p99.max,
            p99.ours,
            p99.theirs,
            beside / alone,
            p50.ratio,
            p50.ours,
            p50.theirs,
            self.stormed
        )?;
        match self.rss_kib {
            Some([before, highest]) => write!(f, "  rss {before} to {highest} KiB"),
            None => Ok(()),
        }
    }
}
