//! `cargo xtask bench`: the agents against proxies that others wrote, the same clients and servers on both sides.
//!
//! A peer's proxy stands where it costs least: one in the client's own pod, for the way between nodes a second one in the
//! server's. Proxies keep to one core, clients and servers to the other. It must not judge a time: it fails where a request
//! failed, the way was another one, or the machine was too busy to measure anything.

mod certificates;
mod idle;
mod load;
mod page;
mod peer;
mod plot;
mod proof;
mod row;
mod sample;
mod taken;
mod way;
mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::interrupt;
use mesh_tests::lab::Options;
use mesh_tests::network;
use mesh_tests::process;
use mesh_tests::running::Running;
use mesh_tests::site::Site;
use serde_json::{Value, json};

use crate::bench::blocks::{Block, Comparison, Side};
use crate::bench::proxies::load::{Amount, FEW, Load};
use crate::bench::proxies::peer::{Chain, PEERS, Peer};
use crate::bench::proxies::proof::{Proof, Seen};
use crate::bench::proxies::row::Row;
use crate::bench::proxies::sample::Noise;
use crate::bench::proxies::taken::Taken;
use crate::bench::proxies::way::Way;
use crate::bench::proxies::workload::{Hops, WORKLOADS, Work, Workload};
use crate::report::ReportTo;
use crate::shell::line;
use crate::{agent, own_lab, setup, workspace};

/// How to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Few and short blocks, in less than five minutes: to see that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Only against this peer; may be given several times
    #[arg(long, value_name = "NAME")]
    peer: Vec<Peer>,
    /// Only this workload, such as W3 or W4-cross; may be given several times
    #[arg(long, value_name = "KEY", value_parser = known)]
    workload: Vec<String>,
    /// Count blocks whatever else runs on the machine; such figures are for nobody else
    #[arg(long)]
    noisy: bool,
    /// Measure this agent instead of building one; nothing is published then
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Name of the lab; ends in -lab
    #[arg(long, value_name = "NAME", default_value = "proxies-lab")]
    lab: String,
    #[command(flatten)]
    report: ReportTo,
}

fn known(key: &str) -> Result<String, String> {
    let keys: Vec<_> = WORKLOADS.iter().map(|workload| workload.key).collect();
    if keys.contains(&key) {
        return Ok(key.to_owned());
    }
    Err(format!("there are {}", keys.join(", ")))
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let peers: Vec<Peer> = PEERS
        .into_iter()
        .filter(|peer| arguments.peer.is_empty() || arguments.peer.contains(peer))
        .collect();
    setup::run()?;
    setup::for_bench(peers.contains(&Peer::Envoy))?;
    let agent = agent::given_or_optimised(arguments.agent.as_ref())?;
    let options = Options {
        site: Site::named(&arguments.lab)?,
        dir: workspace::root().join("tests/lab/bench/http"),
        agent: Some(agent),
        tools: workspace::lab_tools(),
    };
    let rows = own_lab::with(
        &options,
        "two nodes; the same pods in the mesh and outside of it",
        |lab| Bench::new(lab, arguments).and_then(|mut bench| bench.measure(&peers)),
    )?;
    let machine = page::Machine::read(&peers)?;
    arguments.report.write(&report(&rows, &machine, arguments))?;
    publish(&rows, &machine, arguments)?;
    judge(&rows)
}

/// By workload, then by peer.
fn report(rows: &[Row], machine: &page::Machine, arguments: &Arguments) -> Value {
    let mut workloads: BTreeMap<&str, BTreeMap<&str, &Row>> = BTreeMap::new();
    for row in rows {
        let peers = workloads.entry(row.workload.key).or_default();
        peers.insert(row.peer.name(), row);
    }
    json!({ "workloads": workloads, "machine": machine, "quick": arguments.quick, "noisy": arguments.noisy })
}

/// Only a whole run on a quiet machine changes what is published; the plots of any other are beside the build.
fn publish(rows: &[Row], machine: &page::Machine, arguments: &Arguments) -> Result<()> {
    let is_ordinary = !arguments.quick && !arguments.noisy && arguments.agent.is_none();
    let is_whole = is_ordinary && rows.len() == PEERS.len() * WORKLOADS.len();
    let dir = if is_whole {
        workspace::root().join("docs/benchmarks")
    } else {
        workspace::target().join("bench")
    };
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    for (name, plot) in [
        ("ratios.svg", plot::ratios(rows)?),
        ("costs.svg", plot::costs(rows)?),
    ] {
        let file = dir.join(name);
        fs::write(&file, plot).with_context(|| format!("write {}", file.display()))?;
    }
    line(&format!("  plots: {}", dir.display()))?;
    if is_whole {
        page::write(rows, machine)
    } else {
        Ok(())
    }
}

fn judge(rows: &[Row]) -> Result<()> {
    let named = |row: &Row| format!("{} against {}", row.workload.key, row.peer.name());
    let failed: Vec<_> = rows.iter().filter(|row| row.errors > 0).map(named).collect();
    ensure!(failed.is_empty(), "requests failed: {}", failed.join(", "));
    let empty: Vec<_> = rows
        .iter()
        .filter(|row| row.judged.is_none())
        .map(named)
        .collect();
    ensure!(
        empty.is_empty(),
        "too much else runs on this machine (--noisy counts it all the same): no block of {}",
        empty.join(", ")
    );
    Ok(())
}

/// A lab to measure in, and how.
struct Bench<'l> {
    lab: &'l Running,
    /// Certificates and configuration of the peers.
    dir: PathBuf,
    is_quick: bool,
    is_noise_allowed: bool,
    workloads: Vec<Workload>,
    /// What was on the wire when our agents first spoke to a port of the other node. Later they use the same connections.
    first_seen: BTreeMap<u16, Seen>,
}

impl<'l> Bench<'l> {
    fn new(lab: &'l Running, arguments: &Arguments) -> Result<Self> {
        let cores = std::thread::available_parallelism().context("count cores")?.get();
        ensure!(
            cores > SERVER_CORE,
            "two cores are needed, one of them for proxies alone: there is {cores}"
        );
        for pod in lab.state.pods.values() {
            network::set(&pod.netns, &[ENDED])?;
        }
        let dir = lab.site.run_dir().join("peers");
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        certificates::make(&dir)?;
        let wanted = &arguments.workload;
        let workloads = WORKLOADS
            .into_iter()
            .filter(|workload| wanted.is_empty() || wanted.iter().any(|key| key == workload.key));
        Ok(Self {
            lab,
            dir,
            is_quick: arguments.quick,
            is_noise_allowed: arguments.noisy,
            workloads: workloads.collect(),
            first_seen: BTreeMap::new(),
        })
    }

    fn blocks_of(&self, workload: Workload) -> usize {
        match workload.work {
            _ if self.is_quick => workload.quick_blocks,
            Work::Requests(_) => 5,
            Work::Idle => 2,
        }
    }

    fn seconds(&self) -> u8 {
        if self.is_quick { 1 } else { 2 }
    }

    /// The agents try the splice for some seconds when they start; that is no request's cost.
    fn wait_for_trials(&self) -> Result<()> {
        for node in self.lab.state.nodes.keys() {
            let ended = process::wait_until(Duration::from_mins(1), || {
                let status = self.lab.status(node)?;
                let state = status.pointer("/splice/state").and_then(Value::as_str);
                let state = state.with_context(|| format!("no splice in the status of {node}"))?;
                Ok((state != "trying").then_some(()))
            })?;
            ended.with_context(|| format!("the trial of the splice on {node} does not end"))?;
        }
        Ok(())
    }

    fn measure(&mut self, peers: &[Peer]) -> Result<Vec<Row>> {
        self.wait_for_trials()?;
        line(&format!(
            "  samples of {} s, ours by theirs: median [least to most] of the blocks\n",
            self.seconds()
        ))?;
        let mut rows = Vec::new();
        for workload in self.workloads.clone() {
            line(&format!(
                "  {}: {}; {}",
                workload.key,
                workload.title,
                workload.figure().title()
            ))?;
            for peer in peers {
                interrupt::check()?;
                let row = match workload.work {
                    Work::Requests(load) => self.requests(workload, load, *peer),
                    Work::Idle => self.idle(workload, *peer),
                };
                let row = row.with_context(|| format!("{} against {}", workload.key, peer.name()))?;
                line(&format!("  {row}"))?;
                rows.push(row);
            }
        }
        Ok(rows)
    }

    fn requests(&mut self, workload: Workload, load: Load, peer: Peer) -> Result<Row> {
        let hops = workload.hops;
        let ours = Way::ours(self.lab, hops)?;
        let proof_ours = self.prove_ours(&ours, load, hops)?;
        let chain = Chain::start(peer, self.lab, &self.dir, hops)?;
        let theirs = Way::theirs(self.lab, hops, &chain)?;
        let captured = (hops == Hops::Two).then_some(theirs.server);
        let proof_theirs = proof::take(self.lab, &theirs, load, captured)?;
        proof::equal_suites(&proof_ours, &proof_theirs)?;
        let taken = self.blocks(workload, load, [&ours, &theirs])?;
        Ok(Row::of_requests(
            workload,
            peer,
            &taken,
            [proof_ours, proof_theirs],
        ))
    }

    fn prove_ours(&mut self, way: &Way, load: Load, hops: Hops) -> Result<Proof> {
        let seen = self.first_seen.get(&way.port(load)).cloned();
        let is_new = hops == Hops::Two && seen.is_none();
        let mut proof = proof::take(self.lab, way, load, is_new.then_some(way.server))?;
        if hops == Hops::Two {
            proof.wire = proof.wire.or(seen);
            self.first_seen
                .extend(proof.wire.clone().map(|seen| (way.port(load), seen)));
        }
        Ok(proof)
    }

    fn blocks(&self, workload: Workload, load: Load, [ours, theirs]: [&Way; 2]) -> Result<Taken> {
        let ((early, ours_amount), (late, theirs_amount)) =
            (self.warm_up(ours, load)?, self.warm_up(theirs, load)?);
        let sample = |side| match side {
            Side::Ours => sample::take(self.lab, ours, load, ours_amount),
            Side::Theirs => sample::take(self.lab, theirs, load, theirs_amount),
        };
        let limit = if self.is_noise_allowed {
            Noise::UNLIMITED
        } else {
            Noise::LIMIT
        };
        let mut taken = Taken::take(self.blocks_of(workload), limit, sample)?;
        taken.errors += early + late;
        Ok(taken)
    }

    /// Pools fill and tickets are handed out under load only: the first second says nothing. Returns the errors of it, and how
    /// much a sample is.
    ///
    /// Streams are counted and not timed: those that end unanswered would take connections behind a proxy with them.
    fn warm_up(&self, way: &Way, load: Load) -> Result<(u32, Amount)> {
        let run = |amount| load.run(self.lab, &way.client, &way.url(load), amount);
        match load {
            Load::KeepAlive | Load::Connections => {
                Ok((run(Amount::Seconds(1))?.errors, Amount::Seconds(self.seconds())))
            }
            Load::Streams => {
                let first = run(Amount::Requests(FEW))?;
                let second = run(Amount::Requests(first.requests_in(1)))?;
                let amount = Amount::Requests(second.requests_in(self.seconds()));
                Ok((first.errors + second.errors, amount))
            }
        }
    }

    fn idle(&self, workload: Workload, peer: Peer) -> Result<Row> {
        let hops = workload.hops;
        let mut blocks = Vec::new();
        for _ in 0..self.blocks_of(workload) {
            interrupt::check()?;
            blocks.push(Block::take(|side| match side {
                Side::Ours => {
                    idle::fresh_agents(self.lab)?;
                    idle::sample(self.lab, &Way::ours(self.lab, hops)?)
                }
                Side::Theirs => {
                    let chain = Chain::start(peer, self.lab, &self.dir, hops)?;
                    idle::sample(self.lab, &Way::theirs(self.lab, hops, &chain)?)
                }
            })?);
        }
        let judged = Comparison::of(&blocks, |kib| *kib);
        Ok(Row::of_memory(workload, peer, judged))
    }
}

/// The core of the proxies.
const PROXY_CORE: usize = 0;
/// The core of clients and servers: the last one that is used.
const SERVER_CORE: usize = 1;
const CLIENT_CORE: usize = SERVER_CORE;
/// Connections that are over and keep their ports for a minute. Where most ports are taken so, to search for a free one costs
/// a client more than the connection does.
const ENDED: (&str, &str) = ("net/ipv4/tcp_max_tw_buckets", "2000");
/// How long a sample may take beyond what it is meant to.
const LIMIT: Duration = Duration::from_secs(30);
