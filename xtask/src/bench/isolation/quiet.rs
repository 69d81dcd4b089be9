//! The quiet pair: 400 requests a second on four connections, and how long each waited for its answer.
//!
//! It must not know of any storm.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::process;
use mesh_tests::running::Running;

use crate::bench::isolation::place::{Pods, Sharing};

/// How long requests waited, in microseconds, from the least to the most.
#[derive(Debug, PartialEq)]
pub(crate) struct Waits {
    sorted: Vec<u32>,
    failed: usize,
}

/// Asks for so many seconds, after one that does not count.
pub(crate) fn ask(lab: &Running, pods: Pods, sharing: Sharing, seconds: u32) -> Result<Waits> {
    let log = lab.site.run_dir().join("quiet.log");
    if log.exists() {
        fs::remove_file(&log).context("remove the log of the sample before")?;
    }
    let duration = seconds.to_string();
    let file = format!("--log-file={}", log.display());
    let url = format!("http://{}:8080/", pods.host(lab, "quiet")?);
    let words = [
        "h2load",
        "--h1",
        "-c4",
        "--rps=100",
        "--warm-up-time=1",
        "-D",
        &duration,
        &file,
        &url,
    ];
    let program = sharing.prefix(false).iter().chain(&words);
    let program: Vec<String> = program.map(|&word| word.to_owned()).collect();
    let mut command = lab.command(&pods.named("quiet-client")?, &program, lab.site.run_dir())?;
    process::run(&mut command, LIMIT)?.success()?;
    let text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    let waits = Waits::of(&text)?;
    let wanted = usize::try_from(seconds).context("seconds")? * RATE / 2;
    ensure!(
        waits.count() >= wanted,
        "the quiet pair made {} requests only",
        waits.count()
    );
    Ok(waits)
}

impl Waits {
    /// Lines of h2load's log: when it began, status (-1 when it failed), microseconds.
    fn of(log: &str) -> Result<Self> {
        let (mut sorted, mut failed) = (Vec::new(), 0);
        for line in log.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [_, status, took, ..] = fields.as_slice() else {
                anyhow::bail!("not a line of h2load's log: {line:?}");
            };
            failed += usize::from(*status != "200");
            sorted.push(took.parse().with_context(|| format!("the time in {line:?}"))?);
        }
        sorted.sort_unstable();
        Ok(Self { sorted, failed })
    }

    /// Those of several samples.
    pub(crate) fn together<'w>(samples: impl Iterator<Item = &'w Self>) -> Self {
        let (mut sorted, mut failed) = (Vec::new(), 0);
        for sample in samples {
            sorted.extend_from_slice(&sample.sorted);
            failed += sample.failed;
        }
        sorted.sort_unstable();
        Self { sorted, failed }
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// How many were not answered with 200.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// Half waited no longer.
    pub(crate) fn p50(&self) -> f64 {
        self.at(50)
    }

    /// 99 of 100 waited no longer.
    pub(crate) fn p99(&self) -> f64 {
        self.at(99)
    }

    /// The nearest rank: the least value that so many per cent do not exceed.
    fn at(&self, percent: usize) -> f64 {
        let rank = (self.sorted.len() * percent).div_ceil(100).saturating_sub(1);
        self.sorted.get(rank).copied().map_or(f64::NAN, f64::from)
    }
}

/// Requests a second.
const RATE: usize = 400;
const LIMIT: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest() {
        let lines: Vec<_> = (1..=200).rev().map(|took| format!("1\t200\t{took}\n")).collect();
        let log = lines.concat();
        let waits = Waits::of(&log).unwrap();
        assert_eq!((waits.count(), waits.failed()), (200, 0));
        assert!((waits.p50() - 100.0).abs() < f64::EPSILON);
        assert!((waits.p99() - 198.0).abs() < f64::EPSILON);
    }

    #[test]
    fn those_of_several_samples_have_ranks_of_their_own() {
        let samples = ["1\t200\t1\n2\t200\t9\n", "1\t200\t5\n2\t503\t3\n"];
        let samples = samples.map(|log| Waits::of(log).unwrap());
        let all = Waits::together(samples.iter());
        assert_eq!((all.sorted.as_slice(), all.failed), ([1, 3, 5, 9].as_slice(), 1));
    }

    #[test]
    fn what_failed_is_counted() {
        let waits = Waits::of("1\t200\t5\n2\t503\t7\n3\t-1\t9\n").unwrap();
        assert_eq!((waits.count(), waits.failed()), (3, 2));
        assert!(Waits::of("what?\n").is_err());
    }
}
