//! The section of docs/benchmarks.md that a whole run writes, between two marks; worse rows are named again below the table.
//!
//! It must not measure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::bench::proxies::peer::Peer;
use crate::bench::proxies::row::{Row, ratio};
use crate::{shell, workspace};

/// What was measured on, and what.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    date: String,
    /// The commit that the agent was built from.
    commit: String,
    /// What the peers say of themselves.
    peers: BTreeMap<&'static str, String>,
}

impl Machine {
    /// Reads it.
    pub(crate) fn read(peers: &[Peer]) -> Result<Self> {
        let file = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let cpu = file("/proc/cpuinfo")?;
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let said = |program: &str, args: &[&str]| -> Result<String> {
            let said = shell::read(
                Command::new(program).args(args).current_dir(workspace::root()),
                LIMIT,
            )?;
            Ok(said.trim().to_owned())
        };
        let peers = peers.iter().map(|peer| Ok((peer.name(), peer.version()?)));
        Ok(Self {
            cpu: cpu
                .map_or("unknown", |name| name.trim_start_matches([' ', '\t', ':']))
                .to_owned(),
            cores: std::thread::available_parallelism().context("count cores")?.get(),
            kernel: file("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: said("date", &["+%-d %B %Y"])?,
            commit: said("git", &["describe", "--always", "--dirty"])?,
            peers: peers.collect::<Result<_>>()?,
        })
    }
}

/// Replaces what is between the marks.
pub(crate) fn write(rows: &[Row], machine: &Machine) -> Result<()> {
    let file = workspace::root().join("docs/benchmarks.md");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let text = replaced(&text, &section(rows, machine)?).with_context(|| file.display().to_string())?;
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}

fn replaced(text: &str, section: &str) -> Result<String> {
    let (head, rest) = text
        .split_once(BEGIN)
        .context("the mark where the section begins is gone")?;
    let (_, tail) = rest
        .split_once(END)
        .context("the mark where the section ends is gone")?;
    Ok(format!("{head}{BEGIN}\n{section}\n{END}{tail}"))
}

fn section(rows: &[Row], machine: &Machine) -> Result<String> {
    let Machine {
        cpu,
        cores,
        kernel,
        date,
        commit,
        peers,
    } = machine;
    let versions: Vec<_> = peers.values().cloned().collect();
    let mut text = format!(
        "{date}, commit `{commit}`: {cpu}, {cores} cores, Linux {kernel}, cubic at both ends. {}.\n\
         {}\n\n\
         | workload | against | what is compared | ratio: median [least to most] | mesh | peer | proxies alone, ratio | \
         requests/s, mesh and peer | blocks (given up) |\n|---|---|---|---|---|---|---|---|---|\n",
        versions.join("; "),
        suites(rows),
    );
    for row in rows {
        let judged = row.judged.as_ref();
        let requests = row.requests.as_ref();
        let rate = requests.and_then(|requests| requests.rate.as_ref());
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} ({}) |",
            row.workload.key,
            row.peer.name(),
            row.figure,
            ratio(judged),
            judged.map_or_else(String::new, |one| format!("{:.1} {}", one.ours, row.unit)),
            judged.map_or_else(String::new, |one| format!("{:.1} {}", one.theirs, row.unit)),
            requests.map_or_else(String::new, |requests| ratio(requests.proxies.as_ref())),
            rate.map_or_else(String::new, |rate| format!(
                "{:.0}, {:.0}",
                rate.ours, rate.theirs
            )),
            judged.map_or(0, |one| one.blocks),
            row.refused,
        )?;
    }
    text.push_str(&worse(rows));
    text.push_str("\n![ratios](benchmarks/ratios.svg)\n\n![what a request costs](benchmarks/costs.svg)");
    Ok(text)
}

/// The suites that were seen on the wire.
fn suites(rows: &[Row]) -> String {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for row in rows {
        let Some(requests) = &row.requests else { continue };
        for (name, proof) in [
            ("the mesh", &requests.proof_ours),
            (row.peer.name(), &requests.proof_theirs),
        ] {
            let suites = proof.wire.iter().flat_map(|wire| &wire.suites);
            seen.extend(suites.map(|suite| (name, suite.as_str())));
        }
    }
    let seen: Vec<_> = seen
        .iter()
        .map(|(name, suite)| format!("{name} {suite}"))
        .collect();
    format!("Seen on the wire: {}.", seen.join(", "))
}

fn worse(rows: &[Row]) -> String {
    let worse = rows.iter().filter_map(|row| {
        let judged = row.judged.as_ref().filter(|judged| judged.ratio > 1.0)?;
        Some(format!(
            "- {} against {}: {} {}, {:.1} by {:.1} {}\n",
            row.workload.title,
            row.peer.name(),
            ratio(Some(judged)),
            row.figure,
            judged.ours,
            judged.theirs,
            row.unit
        ))
    });
    let worse: String = worse.collect();
    if worse.is_empty() {
        return "\nNo median is worse.\n".to_owned();
    }
    format!("\nWorse than a peer:\n\n{worse}")
}

const BEGIN: &str = "<!-- cargo xtask bench writes from here -->";
const END: &str = "<!-- to here -->";
const LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::blocks::{Block, Comparison, Side};
    use crate::bench::proxies::workload::WORKLOADS;

    fn row(ours: f64) -> Row {
        let block = Block::take(|side| Ok::<_, ()>(if side == Side::Ours { ours } else { 2.0 })).unwrap();
        Row::of_memory(WORKLOADS[6], Peer::Nginx, Comparison::of(&[block], |kib| *kib))
    }

    #[test]
    fn what_is_worse_is_named_again() {
        let text = worse(&[row(3.0), row(1.0)]);
        assert!(text.contains("against nginx: 1.50"), "{text}");
        assert!(!text.contains("0.50"), "{text}");
        assert!(worse(&[row(1.0)]).contains("No median is worse"));
    }

    #[test]
    fn only_what_is_between_the_marks_is_written() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let text = replaced(&page, "new").unwrap();
        assert_eq!(text, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert!(replaced("no marks", "new").is_err());
    }

    #[test]
    fn the_page_has_the_marks() {
        let page = fs::read_to_string(workspace::root().join("docs/benchmarks.md")).unwrap();
        assert!(replaced(&page, "").is_ok());
    }
}
