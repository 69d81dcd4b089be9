//! What a guest said, and all of it as a table: kernels by features.
//!
//! It must not know how a guest is run.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// What was seen on one kernel.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    /// As `uname -r` says.
    pub(crate) release: String,
    /// The Debian package's version.
    pub(crate) version: String,
    /// The line in which the agent refused to serve pods there.
    pub(crate) refused: Option<String>,
    /// Features of the kernel that were looked for, and what was found.
    pub(crate) features: BTreeMap<String, String>,
    /// Programs: instructions that the verifier walked through, and how many it may.
    pub(crate) programs: BTreeMap<String, Instructions>,
    /// Claims by their words: whether they hold.
    pub(crate) claims: BTreeMap<String, bool>,
    /// Whether the guest came to its end.
    pub(crate) is_whole: bool,
}

/// Of one program on one kernel.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Instructions {
    walked: String,
    budget: String,
}

impl Instructions {
    /// Reads `walked=1 budget=2`, with other words between them.
    fn of(facts: &str) -> Self {
        let fact = |name: &str| {
            let word = facts.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.unwrap_or("?").to_owned()
        };
        Self {
            walked: fact("walked="),
            budget: fact("budget="),
        }
    }
}

impl Findings {
    /// Takes in one line of the console; the claim that it decides, if it does.
    pub(crate) fn take(&mut self, line: &str, unfinished: &mut Option<String>) -> Option<(String, bool)> {
        // What a test says first follows its name.
        let named = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "));
        let fact = named.map_or(line, |(_, fact)| fact);
        if line == "guest done" {
            self.is_whole = true;
        } else if let Some(rest) = fact.strip_prefix("feature ") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "yes"));
            self.features.insert(name.replace('_', " "), value.to_owned());
        } else if let Some(rest) = fact.strip_prefix("program ") {
            let (name, facts) = rest.split_once(' ').unwrap_or((rest, ""));
            self.programs.insert(name.to_owned(), Instructions::of(facts));
        } else if let Some(why) = fact.strip_prefix("refused: ") {
            self.refused = Some(why.to_owned());
        }
        let (claim, holds) = verdict(line, unfinished)?;
        self.claims.insert(claim.clone(), holds);
        Some((claim, holds))
    }

    /// What is not as it should be.
    pub(crate) fn failures(&self, is_served: bool) -> Vec<String> {
        let mut failures = Vec::new();
        if !self.is_whole {
            failures.push("the guest did not come to its end".to_owned());
        }
        match (&self.refused, is_served) {
            (Some(why), true) => failures.push(format!("the agent refused to serve: {why}")),
            (None, false) => failures.push("the agent did not refuse to serve".to_owned()),
            _ => {}
        }
        let broken = self.claims.iter().filter(|(_, holds)| !**holds);
        failures.extend(broken.map(|(claim, _)| claim.clone()));
        if is_served && self.claims.len() < 2 {
            failures.push("nothing was tested".to_owned());
        }
        failures
    }
}

/// Reads `test NAME ... ok`. What a test's programs write may stand between the two: `unfinished` keeps the name.
fn verdict(line: &str, unfinished: &mut Option<String>) -> Option<(String, bool)> {
    let (name, rest) = match line
        .strip_prefix("test ")
        .and_then(|rest| rest.split_once(" ... "))
    {
        Some((name, rest)) => (name.to_owned(), rest),
        None => match line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ..."))
        {
            Some(name) => {
                *unfinished = Some(name.to_owned());
                return None;
            }
            None => (unfinished.clone()?, line),
        },
    };
    let holds = match rest.trim() {
        text if text.ends_with("FAILED") => false,
        text if text == "ok" || text.ends_with(" ok") => true,
        _ => {
            *unfinished = Some(name);
            return None;
        }
    };
    *unfinished = None;
    let words = name.rsplit("::").next().unwrap_or(&name).replace('_', " ");
    Some((words, holds))
}

/// Kernels by features, as Markdown; the order of the kernels is kept.
pub(crate) fn table(findings: &[Findings]) -> String {
    let mut rows = vec![
        row("", findings.iter().map(|one| one.release.clone())),
        format!("|---{}|", "|---".repeat(findings.len())),
        row("Debian package", findings.iter().map(|one| one.version.clone())),
        row(
            "serves pods",
            findings
                .iter()
                .map(|one| if one.refused.is_some() { "refuses" } else { "yes" }.to_owned()),
        ),
    ];
    let features: BTreeSet<&String> = findings.iter().flat_map(|one| one.features.keys()).collect();
    for feature in features {
        let cells = findings.iter().map(|one| one.features.get(feature).cloned());
        rows.push(row(feature, cells.map(or_dash)));
    }
    let programs: BTreeSet<&String> = findings.iter().flat_map(|one| one.programs.keys()).collect();
    for program in programs {
        let known = || findings.iter().map(|one| one.programs.get(program));
        let budget = known().flatten().map(|facts| facts.budget.as_str()).next();
        let cells = known().map(|facts| facts.map(|facts| facts.walked.clone()));
        let label = format!("instructions of `{program}`, budget {}", budget.unwrap_or("?"));
        rows.push(row(&label, cells.map(or_dash)));
    }
    let claims: BTreeSet<&String> = findings.iter().flat_map(|one| one.claims.keys()).collect();
    for claim in claims {
        let cells = findings.iter().map(|one| {
            let holds = one.claims.get(claim);
            holds.map(|holds| if *holds { "yes" } else { "**no**" }.to_owned())
        });
        rows.push(row(claim, cells.map(or_dash)));
    }
    rows.join("\n") + "\n"
}

fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "–".to_owned())
}

fn row(first: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.collect();
    format!("| {first} | {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(console: &str) -> Findings {
        let mut findings = Findings {
            release: "6.1".to_owned(),
            ..Findings::default()
        };
        let mut unfinished = None;
        for line in console.lines() {
            findings.take(line, &mut unfinished);
        }
        findings
    }

    #[test]
    fn reads_claims_features_and_programs_of_a_console() {
        let seen = findings(
            "feature bpf_set_retval=yes\nprogram mesh_connect4 walked=674 bytes=3336 budget=2000\n\
             test restart::links_are_kept ... ok\ntest mends ... Traceback\n  noise\nFAILED\n\
             test noisy ...\nwords\nok\ntest result: FAILED. 2 passed; 1 failed;\nguest done\n",
        );
        let claims: Vec<_> = seen
            .claims
            .iter()
            .map(|(claim, holds)| (claim.as_str(), *holds))
            .collect();
        assert_eq!(
            claims,
            [("links are kept", true), ("mends", false), ("noisy", true)]
        );
        assert_eq!(seen.failures(true), ["mends"]);
        let table = table(&[seen]);
        assert!(table.contains("| bpf set retval | yes |\n"), "{table}");
        let program = "| instructions of `mesh_connect4`, budget 2000 | 674 |\n";
        assert!(table.contains(program), "{table}");
        assert!(table.contains("| mends | **no** |\n"), "{table}");
    }

    #[test]
    fn a_refusal_is_right_only_where_it_is_expected() {
        let refused = findings("test x ... refused: kernel too old: use Linux 5.15\nok\nguest done\n");
        assert_eq!(refused.failures(false), [""; 0]);
        assert_eq!(refused.failures(true).len(), 2);
        let served = findings("test x ... ok\ntest y ... ok\nguest done\n");
        assert_eq!(served.failures(true), [""; 0]);
        assert_eq!(served.failures(false).len(), 1);
    }

    #[test]
    fn a_guest_that_says_nothing_has_failed() {
        assert_eq!(findings("").failures(true).len(), 2);
    }
}
