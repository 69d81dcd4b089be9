//! Unit and in-process tests: `cargo test` of the workspace, counted.
//!
//! It must not need root or a kernel program.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::shell::{cargo, line};

/// How many tests there were.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// False when a test program did not come to its end, or did not build.
    pub(crate) is_whole: bool,
}

/// The tests of all crates but the kernel programs.
pub(crate) fn command() -> Command {
    cargo(&["test", "--workspace", "--exclude", "mesh-ebpf", "--no-fail-fast"])
}

/// Runs tests with their output on the terminal.
pub(crate) fn run(command: &mut Command) -> Result<Counts> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let stdout = child.stdout.take().context("output of cargo test")?;
    let mut counts = Counts::default();
    for text in BufReader::new(stdout).lines() {
        let text = text.context("read the output of cargo test")?;
        if let Some((passed, failed)) = counts_in(&text) {
            counts.passed += passed;
            counts.failed += failed;
        }
        // One line a passed test is too much to read; everything else is shown.
        let is_passed = text.starts_with("test ") && text.ends_with("... ok");
        if !is_passed && !text.is_empty() {
            line(&text)?;
        }
    }
    let status = child.wait().context("wait for cargo test")?;
    counts.is_whole = status.success() || counts.failed > 0;
    Ok(counts)
}

/// As [`run`], once more where one or two tests failed; what failed in the first run and held in the second is put
/// into words.
pub(crate) fn run_again(command: impl Fn() -> Command) -> Result<(Counts, Option<String>)> {
    let first = run(&mut command())?;
    if !first.is_whole || !(1..=FEW).contains(&first.failed) {
        return Ok((first, None));
    }
    line("▶ unit and in-process tests, once more")?;
    let second = run(&mut command())?;
    let has_held = second.is_whole && second.failed == 0;
    let words = || format!("{} of the unit and in-process tests, see above", first.failed);
    Ok((second, has_held.then(words)))
}

/// Reads `test result: ok. 3 passed; 1 failed; ...`.
fn counts_in(line: &str) -> Option<(u64, u64)> {
    let mut words = line.strip_prefix("test result: ")?.split_whitespace().skip(1);
    let passed = words.next()?.parse().ok()?;
    let failed = words.nth(1)?.parse().ok()?;
    Some((passed, failed))
}

/// More failures than these at once are no accident.
pub(crate) const FEW: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_counts_of_a_result_line() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s";
        assert_eq!(counts_in(line), Some((12, 3)));
        assert_eq!(counts_in("test policy::x ... ok"), None);
    }
}
