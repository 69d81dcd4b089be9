//! What came of each case, and why a failure is as it should be or has to be.
//!
//! It must not know what the cases are.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::workspace;

/// One case of a suite, as the suites' programs print it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Outcome {
    /// Unique in its suite.
    pub(crate) name: String,
    /// What was not as it should be; none when the case passed.
    #[serde(default)]
    pub(crate) failure: Option<String>,
    /// Why it was not tried.
    #[serde(default)]
    pub(crate) skipped: Option<String>,
}

/// All cases of one suite.
#[derive(Debug, Serialize)]
pub(crate) struct Tally {
    /// Cases that are as they should be.
    pub(crate) passed: usize,
    /// Cases that are not.
    pub(crate) failed: usize,
    /// Cases that were not tried.
    pub(crate) skipped: usize,
    failures: Vec<Failure>,
    not_tried: BTreeMap<String, String>,
    #[serde(skip)]
    stale: Vec<String>,
}

/// A case that failed.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) name: String,
    pub(crate) what: String,
    /// Why that is right, or has to be for now.
    pub(crate) why: Option<String>,
}

impl Tally {
    /// Counts, and joins failures with their explanations.
    ///
    /// Errors: no case at all, or two of one name.
    pub(crate) fn of(outcomes: Vec<Outcome>, explained: &BTreeMap<String, String>) -> Result<Self> {
        ensure!(!outcomes.is_empty(), "the suite has no cases");
        let mut tally = Self {
            passed: 0,
            failed: 0,
            skipped: 0,
            failures: Vec::new(),
            not_tried: BTreeMap::new(),
            stale: Vec::new(),
        };
        let mut names = std::collections::BTreeSet::new();
        for outcome in outcomes {
            ensure!(
                names.insert(outcome.name.clone()),
                "two cases are called {}",
                outcome.name
            );
            let why = explained.get(&outcome.name).cloned();
            match (outcome.failure, outcome.skipped) {
                (Some(what), _) => {
                    tally.failed += 1;
                    let name = outcome.name;
                    tally.failures.push(Failure { name, what, why });
                }
                (None, Some(skipped)) => {
                    tally.skipped += 1;
                    tally.not_tried.insert(outcome.name, skipped);
                }
                (None, None) => tally.passed += 1,
            }
        }
        let is_stale = |name: &&String| !tally.failures.iter().any(|failure| failure.name == **name);
        tally.stale = explained.keys().filter(is_stale).cloned().collect();
        Ok(tally)
    }

    /// The counts, for people.
    pub(crate) fn summary(&self) -> String {
        let Self {
            passed,
            failed,
            skipped,
            ..
        } = self;
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// Those that failed.
    pub(crate) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Failures that nobody has explained.
    pub(crate) fn unexplained(&self) -> usize {
        self.failures
            .iter()
            .filter(|failure| failure.why.is_none())
            .count()
    }

    /// Explanations of what does not fail.
    pub(crate) fn stale(&self) -> impl Iterator<Item = &str> {
        self.stale.iter().map(String::as_str)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = self.why.as_deref().unwrap_or("NOT EXPLAINED");
        write!(
            f,
            "{}: {}\n      {why}",
            self.name,
            self.what.replace('\n', "\n      ")
        )
    }
}

/// Suite, then case, to the reason why it fails.
#[derive(Debug, Deserialize)]
pub(crate) struct Explained(BTreeMap<String, BTreeMap<String, String>>);

impl Explained {
    /// Reads the committed explanations.
    pub(crate) fn read() -> Result<Self> {
        let file = workspace::root().join("tests/lab/conformance/explained.yaml");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        serde_yaml_ng::from_str(&text).with_context(|| file.display().to_string())
    }

    /// Those of one suite.
    pub(crate) fn of(&self, suite: &str) -> &BTreeMap<String, String> {
        const NONE: &BTreeMap<String, String> = &BTreeMap::new();
        self.0.get(suite).unwrap_or(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, failure: Option<&str>, skipped: Option<&str>) -> Outcome {
        Outcome {
            name: name.to_owned(),
            failure: failure.map(str::to_owned),
            skipped: skipped.map(str::to_owned),
        }
    }

    #[test]
    fn a_failure_counts_until_it_is_explained_and_an_explanation_must_have_its_failure() {
        let cases = vec![
            case("good", None, None),
            case("bad", Some("answered"), None),
            case("left out", None, Some("by the suite")),
        ];
        let tally = Tally::of(cases.clone(), &BTreeMap::new()).unwrap();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 1));
        assert_eq!(tally.unexplained(), 1);

        let explained = [("bad", "on purpose"), ("good", "once failed")];
        let explained = explained.map(|(name, why)| (name.to_owned(), why.to_owned()));
        let tally = Tally::of(cases, &explained.into()).unwrap();
        assert_eq!(tally.unexplained(), 0);
        assert_eq!(tally.stale().collect::<Vec<_>>(), ["good"]);
    }

    #[test]
    fn a_suite_without_cases_or_with_two_of_one_name_is_none() {
        assert!(Tally::of(Vec::new(), &BTreeMap::new()).is_err());
        let twice = vec![case("one", None, None), case("one", None, None)];
        assert!(Tally::of(twice, &BTreeMap::new()).is_err());
    }
}
