//! `cargo xtask test`: unit and in-process tests, then every claim in a lab with the real kernel.
//!
//! Nothing is skipped here: a lab that does not come up is a failure. It must not know what is claimed.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use mesh_tests::interrupt;
use mesh_tests::lab::Options;
use mesh_tests::site::Site;
use mesh_tests::suites::{self, Claim, Suite, Verdict};
use serde_json::json;

use crate::report::ReportTo;
use crate::shell::line;
use crate::{agent, in_process, kube, setup, workspace};

/// The labs of the suites have their own name, so that they leave alone a lab that somebody is using.
const SITE: &str = "suites-lab";

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only lab claims whose suite or words contain this, and no in-process tests
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Run only the lab claims of this suite, and no in-process tests
    #[arg(long, value_name = "NAME", conflicts_with = "only")]
    suite: Option<String>,
    /// Name of the labs, so that two checkouts can be tested side by side; ends in -lab
    #[arg(long, value_name = "NAME", default_value = SITE)]
    lab: String,
    #[command(flatten)]
    report: ReportTo,
}

/// Runs the tests.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    if arguments.suite.as_deref() == Some(suites::SPIRE.name) {
        setup::for_spire()?;
    }
    let agent = agent::build()?;
    let mut counts = in_process::Counts {
        is_whole: true,
        ..in_process::Counts::default()
    };
    if arguments.only.is_none() && arguments.suite.is_none() {
        line("▶ unit and in-process tests")?;
        // Without it the tests over the real kernel pass by doing nothing.
        counts = in_process::run(in_process::command().env("MESH_LAB", "1"))?;
    }
    let mut tools = workspace::lab_tools();
    if arguments.suite.as_deref() == Some(suites::KUBERNETES.name) {
        tools.push(kube::programs(&mesh_tests::kubernetes::PROGRAMS)?);
    }
    let options = Options {
        site: Site::named(&arguments.lab)?,
        dir: workspace::root().join("tests/lab/mesh"),
        agent: Some(agent),
        tools,
    };
    let verdicts = run_suites(&options, arguments)?;
    summarize(arguments, counts, &verdicts)
}

fn run_suites(options: &Options, arguments: &Arguments) -> Result<Vec<Verdict>> {
    let words = arguments.only.as_deref().unwrap_or_default().replace(' ', "_");
    let logs = workspace::target().join("lab-logs");
    let mut verdicts = Vec::new();
    let asked_for = |suite: &Suite| arguments.suite.as_deref() == Some(suite.name);
    let more = suites::on_request().into_iter().filter(asked_for);
    for suite in suites::all().into_iter().chain(more) {
        interrupt::check()?;
        let is_suite = arguments.suite.as_ref().is_none_or(|name| name == suite.name);
        let is_picked =
            |claim: &Claim| is_suite && (suite.name.contains(&words) || claim.name.contains(&words));
        if !suite.claims.iter().any(is_picked) {
            continue;
        }
        line(&format!("▶ {}", suite.name))?;
        verdicts.extend(suites::run(&suite, is_picked, options, &logs, &show));
    }
    Ok(verdicts)
}

/// Says what came of a claim.
pub(crate) fn show(verdict: &Verdict) {
    let mark = if verdict.failure.is_none() { "✓" } else { "✗" };
    let failure = verdict
        .failure
        .as_ref()
        .map(|why| format!("\n      {why}"))
        .unwrap_or_default();
    mesh_tests::say(&format!(
        "  {mark} {} ({:.1} s){failure}",
        verdict.claim, verdict.seconds
    ));
}

fn summarize(arguments: &Arguments, counts: in_process::Counts, verdicts: &[Verdict]) -> Result<()> {
    let failures: Vec<_> = verdicts
        .iter()
        .filter(|verdict| verdict.failure.is_some())
        .collect();
    let mut by_suite: BTreeMap<&str, Vec<&Verdict>> = BTreeMap::new();
    for verdict in verdicts {
        by_suite.entry(verdict.suite).or_default().push(verdict);
    }
    let failed_in_labs = u64::try_from(failures.len())?;
    let held_in_labs = u64::try_from(verdicts.len())? - failed_in_labs;
    let (passed, failed) = (counts.passed + held_in_labs, counts.failed + failed_in_labs);
    let matrix = suites::authz::outcome().unwrap_or_default();
    arguments.report.write(&json!({
        "passed": passed,
        "failed": failed,
        "in_process": counts,
        "suites": by_suite,
        "cells": matrix.cells,
        "wrong": matrix.wrong,
    }))?;
    line("")?;
    for failure in &failures {
        line(&format!("✗ {}: {}", failure.suite, failure.claim))?;
    }
    line(&format!("{passed} passed, {failed} failed"))?;
    if verdicts.is_empty() {
        bail!("no claim is picked by --only or --suite");
    }
    if !counts.is_whole {
        bail!("cargo test did not come to its end");
    }
    if failed > 0 {
        bail!(
            "{failed} tests failed; logs of the labs are in {}",
            workspace::target().join("lab-logs").display()
        );
    }
    Ok(())
}
