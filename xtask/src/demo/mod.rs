//! `cargo xtask demo`: unmodified programs on two nodes talk through the mesh, and what happened is shown.
//!
//! Every figure is taken from what the programs, the packets and the agents' pages said. It must not know how the
//! mesh does it. Whatever happens, the lab is taken down again, unless it is to be kept.

mod facts;
mod traffic;

use anyhow::{Context, Result, bail};
use mesh_tests::interrupt;
use mesh_tests::lab::{self, Lab, Options};
use mesh_tests::running::Running;
use mesh_tests::site::{DEFAULT_NAME, Site};
use mesh_tests::wire::Capture;
use serde_json::json;

use crate::demo::facts::Facts;
use crate::report::ReportTo;
use crate::shell::{line, step};
use crate::{agent, setup, workspace};

/// How to run the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave the lab up at the end and say what to try in it
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    report: ReportTo,
}

/// Runs the demo.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let agent = step("build the agent and its kernel programs", agent::build)?;
    let site = Site::named(DEFAULT_NAME)?;
    let options = Options {
        site: site.clone(),
        dir: workspace::root().join("tests/lab/demo"),
        agent: Some(agent),
        tools: workspace::lab_tools(),
    };
    let lab = step("two nodes, ten pods, one agent a node", || {
        Lab::up(&options, &|what| mesh_tests::say(&format!("  {what}")))
    })?;
    let mut facts = Facts::default();
    let shown = show(lab.running(), &mut facts);
    arguments.report.write(&json!(facts))?;
    if let Err(error) = &shown {
        line(&format!(
            "\n✗ the demo stopped: {error:#}\n  what the agents said last:"
        ))?;
        for node in lab.running().state.nodes.keys() {
            line(&mesh_tests::agent::tail(
                &mesh_tests::agent::log(&site, node, "stderr"),
                5,
            ))?;
        }
    }
    if arguments.keep && !interrupt::seen() {
        lab.keep();
        what_to_try()?;
    } else {
        step("take everything down", || lab.down())?;
        let left = lab::remains(&site)?;
        if !left.is_empty() {
            bail!("left behind: {}", left.join(", "));
        }
    }
    shown?;
    let wrong = facts.differences();
    if !wrong.is_empty() {
        bail!("not as it should be: {}", wrong.join("; "));
    }
    line("✓ all as it should be")
}

fn show(lab: &Running, facts: &mut Facts) -> Result<()> {
    let capture = Capture::start(lab, "demo").context("capture the wire between the nodes")?;
    line("\nThe wire between the nodes is captured from here on.\n")?;
    let shown = all_traffic(lab, facts);
    let wire = capture.stop()?;
    facts.wire(&wire, traffic::SECRET);
    shown?;
    line(&format!(
        "  wire between the nodes   {} packets with TLS, {} with anything else; the word {:?} of a header was {}; ports {:?}",
        facts.wire_tls_packets,
        facts.wire_plaintext_packets,
        traffic::SECRET,
        if facts.wire_shows_secret {
            "SEEN"
        } else {
            "not seen"
        },
        facts.wire_ports,
    ))?;
    facts.metrics(lab)?;
    line(&format!("  paths, by the agents     {:?}", facts.paths_by_agents))?;
    line(&format!(
        "  identities               {}",
        facts
            .identities
            .iter()
            .cloned()
            .collect::<Vec<_>>()
            .join("\n                           ")
    ))?;
    for (reporter, sample) in &facts.reporters {
        line(&format!(
            "  metrics, {reporter:<15} istio_requests_total {} {}",
            sample.value,
            sample.summary()
        ))?;
    }
    line("")
}

fn all_traffic(lab: &Running, facts: &mut Facts) -> Result<()> {
    for part in [
        traffic::same_node,
        traffic::other_node,
        traffic::plain,
        traffic::split,
        traffic::grpc,
        traffic::redis,
        traffic::websocket,
        traffic::wrk,
        traffic::strict,
        traffic::certificate,
    ] {
        interrupt::check()?;
        line(&part(lab, facts)?)?;
    }
    Ok(())
}

fn what_to_try() -> Result<()> {
    line(
        "The lab is still up. Try:
  cargo xtask lab status
  cargo xtask lab exec shop/client -- curl -s http://web/
  cargo xtask lab exec shop/client -- redis-cli -h cart info server
  cargo xtask lab exec shop/client -- wrk -t2 -c16 -d5s http://orders/
  cargo xtask lab exec outside/visitor -- curl -s http://ADDRESS:8080/  # of shop/vault: see `cargo xtask lab status`
  nsenter --net=/run/netns/mesh-lab-node-a curl -s http://127.0.0.1:15020/metrics
and, when done:
  cargo xtask lab down",
    )
}
