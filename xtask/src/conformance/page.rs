//! docs/conformance.md, written from what was observed.
//!
//! It must not judge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use crate::conformance::Suite;
use crate::conformance::outcome::Tally;
use crate::workspace;

/// Writes the page.
pub(crate) fn write(suites: &[&Suite], tallies: &BTreeMap<&'static str, Tally>) -> Result<()> {
    let file = workspace::root().join("docs/conformance.md");
    let text = page(suites, tallies)?;
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}

fn page(suites: &[&Suite], tallies: &BTreeMap<&'static str, Tally>) -> Result<String> {
    let mut text = HEAD.to_owned();
    for suite in suites {
        let tally = tallies.get(suite.name).context("a suite without outcomes")?;
        let Tally {
            passed,
            failed,
            skipped,
            ..
        } = tally;
        writeln!(
            text,
            "| `{}` | {} | {passed} | {failed} | {skipped} |",
            suite.name, suite.title
        )?;
    }
    text.push_str("\n## What fails, and why\n");
    for suite in suites {
        let failures = tallies.get(suite.name).map(Tally::failures).unwrap_or_default();
        if failures.is_empty() {
            continue;
        }
        writeln!(text, "\n### {}\n\n| case | why |\n|---|---|", suite.name)?;
        for failure in failures {
            let why = failure.why.as_deref().unwrap_or("**not explained**");
            let name = failure.name.replace('|', "\\|");
            writeln!(text, "| {name} | {} |", why.replace('\n', " ").trim())?;
        }
    }
    if tallies.values().all(|tally| tally.failures().is_empty()) {
        text.push_str("\nNothing does.\n");
    }
    Ok(text)
}

const HEAD: &str = "# Conformance

Written by `cargo xtask conformance`; do not edit. A client in a pod of one node tries servers in pods of another one, so that
everything passes through both agents and mutual TLS between them. What a case is: `tests/lab/smuggling/` and
`tests/lab/programs/`; explanations: `tests/lab/conformance/explained.yaml`.

| suite | what | passed | failed | skipped |
|---|---|---|---|---|
";
