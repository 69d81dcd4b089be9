//! `cargo xtask bench changes`: what a thousand route changes a minute cost the requests that go on meanwhile.
//!
//! A steady load between two nodes in the lab's mesh, and a route of its Service that is written anew every 60 ms; blocks of
//! changes, calm, calm, changes. It must not judge a time: it fails where a request failed, or no change was seen.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::interrupt;
use mesh_tests::lab::Options;
use mesh_tests::process;
use mesh_tests::running::Running;
use mesh_tests::site::Site;
use serde::Serialize;
use serde_json::{Value, json};

use crate::bench::blocks::{Block, Comparison, Side};
use crate::report::ReportTo;
use crate::shell::line;
use crate::{agent, own_lab, setup, workspace};

/// How to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Two short blocks: to see that it works, not how well
    #[arg(long)]
    quick: bool,
    /// Measure this agent instead of building one
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Name of the lab; ends in -lab
    #[arg(long, value_name = "NAME", default_value = "changes-lab")]
    lab: String,
    #[command(flatten)]
    report: ReportTo,
}

/// One reading: how long the requests took, and what was changed beside them.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    /// In µs, rising.
    took: Vec<u32>,
    failed: usize,
    /// Route changes that were written.
    written: u32,
    /// Configurations that the client's agent began to serve meanwhile.
    seen: f64,
}

/// What came of all blocks; times in µs, ratios of changes by calm.
#[derive(Debug, Serialize)]
struct Found {
    p50: Comparison,
    p99: Comparison,
    /// The slowest request of each sample.
    slowest: Comparison,
    requests: usize,
    /// Requests that were not answered with 200.
    failed: usize,
    changes_written: u32,
    changes_seen: f64,
    /// Changes written a minute while they were.
    changes_a_minute: f64,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    setup::for_bench(false)?;
    let agent = agent::given_or_optimised(arguments.agent.as_ref())?;
    let options = Options {
        site: Site::named(&arguments.lab)?,
        dir: workspace::root().join("tests/lab/bench/http"),
        agent: Some(agent),
        tools: workspace::lab_tools(),
    };
    let found = own_lab::with(&options, "two nodes", |lab| measure(lab, arguments))?;
    line(&format!("  {found}"))?;
    arguments
        .report
        .write(&json!({ "changes": found, "quick": arguments.quick }))?;
    ensure!(found.failed == 0, "{} requests failed", found.failed);
    ensure!(found.changes_seen > 0.0, "no change was seen");
    Ok(())
}

fn measure(lab: &Running, arguments: &Arguments) -> Result<Found> {
    for node in lab.state.nodes.keys() {
        wait_for_trial(lab, node)?;
    }
    let (blocks, seconds) = if arguments.quick { (2, 2) } else { (10, 6) };
    // Pools fill; the first sample says nothing.
    sample(lab, Side::Ours, 1)?;
    let mut taken = Vec::new();
    for _ in 0..blocks {
        interrupt::check()?;
        taken.push(Block::take(|side| sample(lab, side, seconds))?);
    }
    lab.remove_manifest(FILE)?;
    Found::of(&taken, seconds)
}

/// The agents try the splice for some seconds when they start; that is no change's cost.
fn wait_for_trial(lab: &Running, node: &str) -> Result<()> {
    let ended = process::wait_until(Duration::from_mins(1), || {
        let status = lab.status(node)?;
        let state = status.pointer("/splice/state").and_then(Value::as_str);
        Ok((state.context("no splice in the status")? != "trying").then_some(()))
    })?;
    ended.with_context(|| format!("the trial of the splice on {node} does not end"))
}

/// The load for so many seconds: beside changes on "our" side, alone on "theirs".
fn sample(lab: &Running, side: Side, seconds: u32) -> Result<Sample> {
    let version = || Ok::<_, anyhow::Error>(lab.metrics(CLIENT_NODE)?.sum("mesh_config_version", &[]));
    let before = version()?;
    let is_over = AtomicBool::new(side == Side::Theirs);
    let (took, written) = thread::scope(|scope| {
        let changing = scope.spawn(|| change(lab, &is_over));
        let took = ask(lab, seconds);
        is_over.store(true, Ordering::Relaxed);
        let written = changing.join().map_err(|_panic| anyhow!("the changes panicked"));
        Ok::<_, anyhow::Error>((took?, written??))
    })?;
    let log = requests_in(&took)?;
    Ok(Sample {
        written,
        seen: version()? - before,
        ..log
    })
}

/// Writes the route again and again until it `is_over`; how often it was written.
fn change(lab: &Running, is_over: &AtomicBool) -> Result<u32> {
    let began = Instant::now();
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        lab.put_manifest(FILE, &route(number))?;
        // The rate is what is asked for: nothing is waited for.
        thread::sleep((began + PACE * number).saturating_duration_since(Instant::now()));
    }
    Ok(number)
}

/// A rule for another path each time, and a header that is another.
fn route(number: u32) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: changing, namespace: mesh }}
spec:
  parentRefs: [{{ group: "", kind: Service, name: far }}]
  rules:
    - matches: [{{ path: {{ type: Exact, value: /never-{number} }} }}]
      backendRefs: [{{ name: near, port: 8080 }}]
    - filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier: {{ set: [{{ name: x-change, value: "{number}" }}] }}
      backendRefs: [{{ name: far, port: 8080 }}]
"#
    )
}

/// What h2load logs of each request: when it began, its status, how many µs it took.
fn ask(lab: &Running, seconds: u32) -> Result<String> {
    let log = lab.site.run_dir().join("requests.log");
    // h2load appends.
    if log.exists() {
        fs::remove_file(&log).context("remove the log of the last sample")?;
    }
    let (seconds, file) = (seconds.to_string(), log.display().to_string());
    let file = format!("--log-file={file}");
    let words = [
        "h2load",
        "--h1",
        "-t1",
        "-c8",
        RATE,
        "-D",
        &seconds,
        &file,
        "http://far:8080/",
    ];
    let said = lab.exec_within(LIMIT, "mesh/client", &words)?;
    said.success()?;
    fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))
}

fn requests_in(log: &str) -> Result<Sample> {
    let (mut took, mut failed) = (Vec::new(), 0);
    for line in log.lines() {
        let mut columns = line.split_whitespace();
        let (status, micros) = (columns.nth(1), columns.next());
        let micros: u32 = micros
            .and_then(|text| text.parse().ok())
            .with_context(|| format!("h2load logs {line:?}"))?;
        if status == Some("200") {
            took.push(micros);
        } else {
            failed += 1;
        }
    }
    took.sort_unstable();
    ensure!(!took.is_empty(), "no request was answered");
    Ok(Sample {
        took,
        failed,
        written: 0,
        seen: 0.0,
    })
}

impl Sample {
    /// What so many of a hundred requests did not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.took.len().saturating_sub(1);
        let at = (self.took.len() * percent / 100).min(last);
        self.took.get(at).copied().map_or(0.0, f64::from)
    }
}

impl Found {
    fn of(blocks: &[Block<Sample>], seconds: u32) -> Result<Self> {
        let changed = || blocks.iter().flat_map(|block| block.of(Side::Ours));
        let all = || changed().chain(blocks.iter().flat_map(|block| block.of(Side::Theirs)));
        let compared = |percent| {
            Comparison::of(blocks, |sample: &Sample| sample.percentile(percent)).context("no blocks")
        };
        let changes_written = changed().map(|sample| sample.written).sum();
        let samples = u32::try_from(changed().count()).unwrap_or(u32::MAX);
        Ok(Self {
            p50: compared(50)?,
            p99: compared(99)?,
            slowest: compared(100)?,
            requests: all().map(|sample| sample.took.len()).sum(),
            failed: all().map(|sample| sample.failed).sum(),
            changes_written,
            changes_seen: changed().map(|sample| sample.seen).sum(),
            changes_a_minute: f64::from(changes_written) * 60.0 / f64::from((samples * seconds).max(1)),
        })
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, figure) in [("p50", &self.p50), ("p99", &self.p99), ("slowest", &self.slowest)] {
            let Comparison {
                ratio,
                min,
                max,
                ours,
                theirs,
                ..
            } = figure;
            write!(
                f,
                "{name} {ratio:.2} [{min:.2} to {max:.2}], {ours:.0} by {theirs:.0} µs; "
            )?;
        }
        write!(
            f,
            "{} requests, {} failed; {:.0} changes a minute, {} written, {} seen one by one",
            self.requests, self.failed, self.changes_a_minute, self.changes_written, self.changes_seen
        )
    }
}

const FILE: &str = "changing.yaml";
/// A thousand a minute.
const PACE: Duration = Duration::from_millis(60);
/// A second on each of the eight connections: 1,600 together, a load that leaves room for what disturbs it to show.
const RATE: &str = "--rps=200";
const CLIENT_NODE: &str = "node-a";
const LIMIT: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_with_their_status_and_sorted() {
        let sample = requests_in("1 200 30\n2 200 10\n3 503 5\n4 200 20\n").unwrap();
        assert_eq!((sample.took.as_slice(), sample.failed), (&[10, 20, 30][..], 1));
    }

    #[test]
    fn a_log_without_an_answer_or_with_strange_lines_is_no_sample() {
        assert!(requests_in("").is_err());
        assert!(requests_in("1 503 5\n").is_err());
        assert!(requests_in("1 200\n").is_err());
    }

    #[test]
    fn a_percentile_is_what_so_many_requests_did_not_exceed() {
        let lines: Vec<_> = (1..=200).map(|took| format!("0 200 {took}\n")).collect();
        let sample = requests_in(&lines.concat()).unwrap();
        for (percent, expected) in [(50, 101.0), (99, 199.0), (100, 200.0)] {
            let found = sample.percentile(percent);
            assert!((found - expected).abs() < 1e-9, "{percent}: {found}");
        }
    }

    #[test]
    fn the_report_tells_changes_from_calm() {
        let taken = |side| {
            let (took, written) = if side == Side::Ours { (30, 100) } else { (10, 0) };
            Ok::<_, ()>(Sample {
                took: vec![took],
                failed: 0,
                written,
                seen: f64::from(written),
            })
        };
        let found = Found::of(&[Block::take(taken).unwrap()], 6).unwrap();
        assert!((found.p99.ratio - 3.0).abs() < 1e-9);
        assert_eq!((found.requests, found.changes_written), (4, 200));
        assert!((found.changes_a_minute - 1000.0).abs() < 1e-9);
    }
}
