//! Holds docs/features.md against what runs: a test that stands there is a claim of a suite or a `#[test]`, and no feature is
//! without one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{cluster, suites};

const FEATURES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/features.md"));

/// One line of the table.
struct Row<'t> {
    line: &'t str,
    tests: Vec<&'t str>,
    place: &'t str,
}

impl<'t> Row<'t> {
    fn of(line: &'t str) -> Self {
        let (_, place) = line.trim_end_matches([' ', '|']).rsplit_once('|').unwrap();
        Self {
            line,
            tests: line.split('`').skip(1).step_by(2).collect(),
            place: place.trim(),
        }
    }
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.skip(1).map(Row::of).collect()
}

/// What runs in each place.
struct Known {
    lab: BTreeSet<String>,
    nodes: BTreeSet<String>,
    tests: BTreeSet<String>,
}

impl Known {
    fn read() -> Self {
        let mut tests = BTreeSet::new();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for dir in ["mesh-agent/src", "mesh-agent/tests", "tests/src"] {
            of_folder(&repository.join(dir), &mut tests);
        }
        let suites = suites::all().into_iter().chain(suites::on_request());
        let claims = suites.flat_map(|suite| suite.claims);
        Self {
            lab: claims.map(|claim| claim.name.to_owned()).collect(),
            nodes: cluster::claims::all().map(str::to_owned).collect(),
            tests,
        }
    }

    /// What is wrong with a row, if anything.
    fn fault(&self, row: &Row<'_>) -> Option<String> {
        let known = match row.place {
            "lab" => &self.lab,
            "nodes" => &self.nodes,
            "agents" | "unit" => &self.tests,
            other => return Some(format!("no such place as {other:?}: {}", row.line)),
        };
        let unknown = row.tests.iter().find(|test| !known.contains(**test));
        match (row.tests.is_empty(), unknown) {
            (true, _) => Some(format!("no test: {}", row.line)),
            (false, Some(test)) => Some(format!("{test} does not run in {}: {}", row.place, row.line)),
            (false, None) => None,
        }
    }
}

/// The tests of every source file below `dir`.
fn of_folder(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            of_folder(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            of_source(&fs::read_to_string(&path).unwrap(), found);
        }
    }
}

/// The functions that stand right below an attribute that makes them tests.
fn of_source(text: &str, found: &mut BTreeSet<String>) {
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if !line.starts_with("#[") {
            let name = line.trim_start_matches("async ").strip_prefix("fn ");
            let name = name.and_then(|rest| rest.split_once('(')).map(|(name, _)| name);
            found.extend(name.filter(|_| is_test).map(str::to_owned));
            is_test = false;
        }
    }
}

#[test]
fn every_feature_has_tests_that_run() {
    let (known, rows) = (Known::read(), rows(FEATURES));
    assert!(rows.len() > 60, "only {} rows", rows.len());
    let faults: Vec<_> = rows.iter().filter_map(|row| known.fault(row)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_row_without_a_test_or_with_one_that_does_not_run_there_is_a_fault() {
    let known = Known::read();
    let fault = |line: &str| known.fault(&Row::of(line)).is_some();
    let here = "a_row_without_a_test_or_with_one_that_does_not_run_there_is_a_fault";
    assert!(!fault(&format!("| A | `{here}` | unit |")));
    for (wrong, why) in [
        (format!("| A | `{here}`, `it_is_gone` | unit |"), "no such test"),
        (format!("| A | `{here}` | lab |"), "no claim of a suite"),
        ("| A | `of_source` | unit |".to_owned(), "a function, not a test"),
        ("| A | by hand | lab |".to_owned(), "no test at all"),
        (format!("| A | `{here}` | somewhere |"), "no such place"),
    ] {
        assert!(fault(&wrong), "{why}");
    }
}
