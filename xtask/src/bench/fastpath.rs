//! The fast path: round trips, bulk and connections of two pods of one node, in the mesh and outside of it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::lab::Options;
use mesh_tests::process;
use mesh_tests::running::Running;
use mesh_tests::site::Site;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bench::blocks::{Comparison, Side, compare};
use crate::report::ReportTo;
use crate::shell::{line, step};
use crate::{agent, own_lab, setup, shell, workspace};

/// How to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Few and short blocks: to see that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Name of the lab; ends in -lab
    #[arg(long, value_name = "NAME", default_value = "bench-lab")]
    lab: String,
    #[command(flatten)]
    report: ReportTo,
}

/// One thing to compare.
struct Workload {
    /// Key of its ratio in the report.
    key: &'static str,
    /// For people.
    title: &'static str,
    /// The pod that is dialled.
    pod: &'static str,
    /// Its port; each is served by a core of its own.
    port: u16,
    /// What the client does: the words before and after the server's address.
    words: (&'static str, &'static [&'static str]),
    /// What the figures of one side mean, and by what seconds for one operation are multiplied for it.
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    /// Microseconds an operation: less is better.
    Microseconds,
    /// Gigabits a second: more is better.
    Gigabits,
}

/// Clients stay on core 0; so does whatever serves 6379, and what serves 5432 stays on core 1. Both ports of the relay lead
/// to 6379 of the server.
const WORKLOADS: [Workload; 12] = [
    Workload {
        key: "rtt_64_ratio",
        title: "round trip of 64 B, one core",
        pod: SERVER,
        port: 6379,
        words: ("round-trips", &["64"]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "rtt_64_cross_ratio",
        title: "round trip of 64 B, two cores",
        pod: SERVER,
        port: 5432,
        words: ("round-trips", &["64"]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "rtt_4k_ratio",
        title: "round trip of 4 KiB, one core",
        pod: SERVER,
        port: 6379,
        words: ("round-trips", &["4096"]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "rtt_4k_cross_ratio",
        title: "round trip of 4 KiB, two cores",
        pod: SERVER,
        port: 5432,
        words: ("round-trips", &["4096"]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "relay_64_ratio",
        title: "round trip of 64 B by a relay, one core",
        pod: RELAY,
        port: 6379,
        words: ("round-trips", &["64"]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "relay_64_cross_ratio",
        title: "round trip of 64 B by a relay, two cores",
        pod: RELAY,
        port: 5432,
        words: ("round-trips", &["64"]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "relay_4k_ratio",
        title: "round trip of 4 KiB by a relay, one core",
        pod: RELAY,
        port: 6379,
        words: ("round-trips", &["4096"]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "relay_4k_cross_ratio",
        title: "round trip of 4 KiB by a relay, two cores",
        pod: RELAY,
        port: 5432,
        words: ("round-trips", &["4096"]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "bulk_64k_ratio",
        title: "writes of 64 KiB, two cores",
        pod: SERVER,
        port: 5432,
        words: ("bulk", &["65536"]),
        unit: Unit::Gigabits,
    },
    Workload {
        key: "bulk_64k_one_core_ratio",
        title: "writes of 64 KiB, one core",
        pod: SERVER,
        port: 6379,
        words: ("bulk", &["65536"]),
        unit: Unit::Gigabits,
    },
    Workload {
        key: "connect_ratio",
        title: "connection and one byte, direct",
        pod: SERVER,
        port: 6379,
        words: ("connects", &[]),
        unit: Unit::Microseconds,
    },
    Workload {
        key: "connect_captured_ratio",
        title: "connection and one byte, through the agent",
        pod: SERVER,
        port: 7003,
        words: ("connects", &[]),
        unit: Unit::Microseconds,
    },
];

/// What was found out of one workload.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    comparison: Comparison,
    unit: &'static str,
    /// Packets that the client's interface sent and received in one operation, with the mesh.
    packets_ours: f64,
    /// The same without.
    packets_theirs: f64,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let load = step("build the load", build_load)?;
    let agent = step("build the agent and its kernel programs", agent::build)?;
    let options = Options {
        site: Site::named(&arguments.lab)?,
        dir: workspace::root().join("tests/lab/bench"),
        agent: Some(agent),
        tools: vec![load],
    };
    let report = own_lab::with(
        &options,
        "one node, three pods in the mesh, three outside",
        |lab| measure(lab, arguments),
    )?;
    arguments.report.write(&report)?;
    let corrupted = report.get("corrupted_bytes").and_then(Value::as_u64);
    ensure!(corrupted == Some(0), "{corrupted:?} bytes were corrupted");
    Ok(())
}

fn measure(lab: &Running, arguments: &Arguments) -> Result<Value> {
    wait_for_splice(lab)?;
    let (blocks, ms) = if arguments.quick { (3, "150") } else { (12, "500") };
    // Connections of an application are spliced once one was seen to be read as an event loop does.
    for workload in &WORKLOADS {
        workload.sample(lab, Side::Ours, "50")?;
    }
    let mut report = Map::new();
    let mut details = Map::new();
    line(&format!(
        "  {blocks} blocks of four samples of {ms} ms; ratio: median [min to max] of the blocks, mesh by plain\n"
    ))?;
    for workload in &WORKLOADS {
        let found = workload.run(lab, blocks, ms)?;
        line(&format!("  {:<44} {found}", workload.title))?;
        report.insert(workload.key.to_owned(), json!(found.comparison.ratio));
        details.insert(workload.key.to_owned(), json!(found));
    }
    let megabytes = if arguments.quick { "20" } else { "200" };
    let mut corrupted = 0;
    for port in [6379, 5432] {
        let to = format!("{}:{port}", address(lab, Side::Ours, SERVER)?);
        let answer = client(lab, Side::Ours, &["compare", &to, megabytes])?;
        corrupted += answer
            .get("corrupted")
            .and_then(Value::as_u64)
            .context("no count")?;
    }
    line(&format!(
        "  {megabytes} MB there and back, twice: {corrupted} bytes corrupted"
    ))?;
    report.insert("corrupted_bytes".into(), json!(corrupted));
    report.insert("workloads".into(), Value::Object(details));
    report.insert("splice".into(), splice(lab)?);
    Ok(Value::Object(report))
}

impl Workload {
    fn run(&self, lab: &Running, blocks: usize, ms: &str) -> Result<Found> {
        let comparison = compare(blocks, |side| {
            let (done, seconds) = self.sample(lab, side, ms)?;
            Ok(self.unit.figure(done, seconds))
        })?;
        Ok(Found {
            comparison,
            unit: self.unit.name(),
            packets_ours: self.packets(lab, Side::Ours, ms)?,
            packets_theirs: self.packets(lab, Side::Theirs, ms)?,
        })
    }

    /// How much was done, and in how many seconds.
    fn sample(&self, lab: &Running, side: Side, ms: &str) -> Result<(f64, f64)> {
        let (verb, sizes) = self.words;
        let to = format!("{}:{}", address(lab, side, self.pod)?, self.port);
        let words: Vec<&str> = [verb, "0", &to]
            .into_iter()
            .chain(sizes.iter().copied())
            .chain([ms])
            .collect();
        let answer = client(lab, side, &words)?;
        let figure = |key| {
            answer
                .get(key)
                .and_then(Value::as_f64)
                .with_context(|| format!("no {key}"))
        };
        Ok((figure("done")?, figure("seconds")?))
    }

    /// Packets of the client's interface for each operation, those before the clock runs included; for bulk, each 64 KiB.
    fn packets(&self, lab: &Running, side: Side, ms: &str) -> Result<f64> {
        let before = interface(lab, side)?;
        let (done, _) = self.sample(lab, side, ms)?;
        let operations = match self.unit {
            Unit::Microseconds => done,
            Unit::Gigabits => done / 65_536.0,
        };
        Ok((interface(lab, side)? - before) / operations)
    }
}

impl Unit {
    fn figure(self, done: f64, seconds: f64) -> f64 {
        match self {
            Self::Microseconds => seconds * 1e6 / done,
            Self::Gigabits => done * 8.0 / seconds / 1e9,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Microseconds => "us",
            Self::Gigabits => "Gbit/s",
        }
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Comparison {
            ratio,
            min,
            max,
            ours,
            theirs,
            ..
        } = self.comparison;
        write!(
            f,
            "{ratio:.2} [{min:.2} to {max:.2}]  {ours:.1} by {theirs:.1} {}  packets {:.2} by {:.2}",
            self.unit, self.packets_ours, self.packets_theirs
        )
    }
}

/// The trial takes some seconds; without the splice the bench goes on and says so in its report.
fn wait_for_splice(lab: &Running) -> Result<()> {
    let state = process::wait_until(PATIENCE, || {
        let state = splice(lab)?;
        let is_decided = state.get("state").and_then(Value::as_str) != Some("trying");
        Ok(is_decided.then_some(state))
    })?;
    let state = state.context("the trial of the splice does not end")?;
    let words = |key| {
        state
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    line(&format!("  splice: {} {}", words("state"), words("why")))
}

fn splice(lab: &Running) -> Result<Value> {
    let status = lab.status(NODE)?;
    status.get("splice").cloned().context("no splice in the status")
}

fn client(lab: &Running, side: Side, words: &[&str]) -> Result<Value> {
    let program: Vec<&str> = ["mesh-load"].into_iter().chain(words.iter().copied()).collect();
    let output = lab
        .exec(&format!("{}/client", namespace(side)), &program)?
        .success()?;
    serde_json::from_str(&output.stdout).context("what the client says")
}

fn address(lab: &Running, side: Side, pod: &str) -> Result<String> {
    let name = format!("{}/{pod}", namespace(side)).parse()?;
    Ok(lab.pod(&name)?.ipv4.to_string())
}

fn namespace(side: Side) -> &'static str {
    match side {
        Side::Ours => "mesh",
        Side::Theirs => "plain",
    }
}

/// Packets that the client's interface has sent and received.
fn interface(lab: &Running, side: Side) -> Result<f64> {
    let pod = format!("{}/client", namespace(side));
    let table = lab.exec(&pod, &["cat", "/proc/net/dev"])?.success()?.stdout;
    let row = table
        .lines()
        .find_map(|row| row.trim_start().strip_prefix("eth0:"));
    let fields: Vec<&str> = row.context("no eth0")?.split_whitespace().collect();
    let field = |index: usize| -> Result<f64> { Ok(fields.get(index).context("a short row")?.parse()?) };
    Ok(field(1)? + field(9)?)
}

/// Optimised: a slow load would hide what it is to show.
fn build_load() -> Result<PathBuf> {
    let mut cargo = shell::cargo(&[
        "build",
        "--release",
        "--package",
        "mesh-tests",
        "--bin",
        "mesh-load",
    ]);
    shell::show(&mut cargo, BUILD_LIMIT)?;
    Ok(workspace::target().join("release"))
}

const NODE: &str = "node-a";
const SERVER: &str = "server";
const RELAY: &str = "relay";
const BUILD_LIMIT: Duration = Duration::from_mins(20);
const PATIENCE: Duration = Duration::from_mins(1);
