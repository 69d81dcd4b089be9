//! `cargo xtask test`: unit and in-process tests, then every claim in a lab with the real kernel.
//!
//! Nothing is skipped here: a lab that does not come up is a failure. What fails once and holds in a second run is no
//! failure, but it is named: a machine that stalls costs a line and not an hour. It must not know what is claimed.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use mesh_tests::interrupt;
use mesh_tests::lab::Options;
use mesh_tests::site::Site;
use mesh_tests::suites::{self, Claim, Suite, Verdict};
use serde_json::json;

use crate::in_process::FEW;
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
    /// Give nothing a second run: to look for what fails once in a while
    #[arg(long)]
    once: bool,
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
    let mut flaky = Vec::new();
    let mut counts = in_process::Counts {
        is_whole: true,
        ..in_process::Counts::default()
    };
    if arguments.only.is_none() && arguments.suite.is_none() {
        line("▶ unit and in-process tests")?;
        // Without it the tests over the real kernel pass by doing nothing.
        let command = || {
            let mut tests = in_process::command();
            tests.env("MESH_LAB", "1");
            tests
        };
        let (counted, once) = if arguments.once {
            (in_process::run(&mut command())?, None)
        } else {
            in_process::run_again(command)?
        };
        counts = counted;
        flaky.extend(once);
    }
    let mut tools = workspace::lab_tools();
    let needs_api_server = [suites::KUBERNETES.name, suites::KUBESOURCE.name];
    if arguments
        .suite
        .as_deref()
        .is_some_and(|suite| needs_api_server.contains(&suite))
    {
        tools.push(kube::programs(&mesh_tests::kubernetes::PROGRAMS)?);
    }
    let options = Options {
        site: Site::named(&arguments.lab)?,
        dir: workspace::root().join("tests/lab/mesh"),
        agent: Some(agent),
        tools,
    };
    let verdicts = run_suites(&options, arguments, &mut flaky)?;
    summarize(arguments, counts, &verdicts, &flaky)
}

/// What each suite came to; claims that failed in a first run and held in a second are named in `flaky`.
fn run_suites(options: &Options, arguments: &Arguments, flaky: &mut Vec<String>) -> Result<Vec<Verdict>> {
    let words = arguments.only.as_deref().unwrap_or_default().replace(' ', "_");
    let logs = workspace::target().join("lab-logs");
    let mut verdicts = Vec::new();
    let mut second_runs = 0;
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
        let mut judged = suites::run(&suite, is_picked, options, &logs, &show);
        let failed: Vec<_> = judged
            .iter()
            .filter(|verdict| verdict.failure.is_some())
            .collect();
        let is_few = u64::try_from(failed.len()).is_ok_and(|failed| (1..=FEW).contains(&failed));
        if is_few && !arguments.once && second_runs < SECOND_RUNS {
            second_runs += 1;
            let of_first: Vec<_> = failed.into_iter().map(in_words).collect();
            interrupt::check()?;
            line(&format!("▶ {}, once more", suite.name))?;
            judged = suites::run(&suite, is_picked, options, &logs.join("again"), &show);
            if judged.iter().all(|verdict| verdict.failure.is_none()) {
                flaky.extend(of_first);
            }
        }
        verdicts.extend(judged);
    }
    Ok(verdicts)
}

/// A claim that failed, with its reason.
pub(crate) fn in_words(verdict: &Verdict) -> String {
    let why = verdict.failure.as_deref().unwrap_or_default();
    format!("{}: {}: {why}", verdict.suite, verdict.claim)
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

fn summarize(
    arguments: &Arguments,
    counts: in_process::Counts,
    verdicts: &[Verdict],
    flaky: &[String],
) -> Result<()> {
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
        "flaky": flaky,
        "suites": by_suite,
        "cells": matrix.cells,
        "wrong": matrix.wrong,
    }))?;
    line("")?;
    for once in flaky {
        line(&format!("~ failed once, then held: {once}"))?;
    }
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

/// Suites that get a second run.
const SECOND_RUNS: u32 = 2;
