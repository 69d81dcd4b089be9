//! `cargo xtask conformance`: what others wrote to judge protocols by, run from a client through both agents.
//!
//! It must not know how a suite judges: each hands over named outcomes. A failure without an explanation in
//! `tests/lab/conformance/explained.yaml` fails the command, and so does an explanation of what does not fail.

mod grpc_js;
mod h2spec;
mod outcome;
mod page;
mod programs;
mod smuggling;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mesh_tests::interrupt;
use mesh_tests::lab::Options;
use mesh_tests::running::Running;
use mesh_tests::site::Site;
use serde_json::json;

use crate::conformance::outcome::{Explained, Outcome, Tally};
use crate::report::ReportTo;
use crate::shell::{line, step};
use crate::{agent, own_lab, setup, workspace};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only this suite, and leave docs/conformance.md alone
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Name of the lab; ends in -lab
    #[arg(long, value_name = "NAME", default_value = "conformance-lab")]
    lab: String,
    #[command(flatten)]
    report: ReportTo,
}

/// A conformance suite.
struct Suite {
    /// Its key in the report.
    name: &'static str,
    /// What it is, for people.
    title: &'static str,
    run: fn(&Running) -> Result<Vec<Outcome>>,
}

const SUITES: [Suite; 5] = [
    Suite {
        name: "h2spec",
        title: "h2spec 2.2.1, strict, against HTTP/2 with prior knowledge; nginx behind",
        run: programs::h2spec,
    },
    Suite {
        name: "smuggling",
        title: "requests of HTTP/1.1 that recipients have read in two ways, a raw recorder behind",
        run: smuggling::run,
    },
    Suite {
        name: "grpc",
        title: "gRPC of grpcio, client and server",
        run: programs::grpc,
    },
    Suite {
        name: "grpc-js",
        title: "gRPC of Node.js, against the same server",
        run: programs::grpc_js,
    },
    Suite {
        name: "websocket",
        title: "WebSocket frames by hand (after Autobahn's cases 1 to 7), an echo of the package websockets behind",
        run: programs::websocket,
    },
];

/// Runs the suites.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let only = arguments.only.as_deref();
    let suites: Vec<&Suite> = SUITES
        .iter()
        .filter(|suite| only.is_none_or(|name| name == suite.name))
        .collect();
    ensure!(!suites.is_empty(), "no suite is picked by --only");
    let explained = Explained::read()?;
    let tool = h2spec::build()?;
    grpc_js::install()?;
    let agent = step("build the agent and its kernel programs", agent::build)?;
    let mut tools = workspace::lab_tools();
    tools.push(tool);
    let options = Options {
        site: Site::named(&arguments.lab)?,
        dir: workspace::root().join("tests/lab/conformance"),
        agent: Some(agent),
        tools,
    };
    let tallies = own_lab::with(
        &options,
        "two nodes, a client on one and servers on the other",
        |lab| run_all(lab, &suites, &explained),
    )?;
    arguments.report.write(&json!({ "suites": tallies }))?;
    if only.is_none() {
        page::write(&suites, &tallies)?;
    }
    judge(&tallies)
}

fn run_all(lab: &Running, suites: &[&Suite], explained: &Explained) -> Result<BTreeMap<&'static str, Tally>> {
    let mut tallies = BTreeMap::new();
    for suite in suites {
        interrupt::check()?;
        let before = counted(lab)?;
        let outcomes = step(suite.title, || (suite.run)(lab))?;
        for ((agent, before), (_, after)) in before.iter().zip(counted(lab)?) {
            ensure!(after > *before, "{}: nothing of it passed {agent}", suite.name);
        }
        let tally = Tally::of(outcomes, explained.of(suite.name)).with_context(|| suite.name.to_owned())?;
        line(&format!("  {}: {}", suite.name, tally.summary()))?;
        for failure in tally.failures() {
            line(&format!("  ✗ {failure}"))?;
        }
        tallies.insert(suite.name, tally);
    }
    Ok(tallies)
}

/// What the client's agent and the servers' have carried so far.
fn counted(lab: &Running) -> Result<[(&'static str, f64); 2]> {
    let carried = |node, reporter| -> Result<f64> {
        Ok(lab
            .metrics(node)?
            .sum("istio_requests_total", &[("reporter", reporter)]))
    };
    Ok([
        ("the client's agent", carried("node-a", "source")?),
        ("the servers' agent", carried("node-b", "destination")?),
    ])
}

fn judge(tallies: &BTreeMap<&'static str, Tally>) -> Result<()> {
    let unexplained: usize = tallies.values().map(Tally::unexplained).sum();
    let stale: Vec<&str> = tallies.values().flat_map(Tally::stale).collect();
    ensure!(unexplained == 0, "{unexplained} failures have no explanation");
    ensure!(
        stale.is_empty(),
        "explained, but they do not fail: {}",
        stale.join("; ")
    );
    line("✓ every failure is named and explained")
}
