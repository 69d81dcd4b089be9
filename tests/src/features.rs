//! Holds docs/features.md against the sources: a test that stands there exists, and no feature is without one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const FEATURES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/features.md"));

/// What stands after `fn ` in every source file below `dir`.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| {
                let (name, _) = rest.split_once('(')?;
                Some(name.to_owned())
            });
            found.extend(names);
        }
    }
}

/// Each row with the tests that it names.
fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
    let rows = FEATURES.lines().filter(|line| line.starts_with("| "));
    rows.skip(1)
        .map(|row| (row, row.split('`').skip(1).step_by(2).collect()))
        .collect()
}

#[test]
fn every_feature_has_tests_that_exist() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut known = BTreeSet::new();
    for dir in ["mesh-agent/src", "mesh-agent/tests", "tests/src"] {
        functions(&repository.join(dir), &mut known);
    }
    let rows = rows();
    assert!(rows.len() > 30, "only {} rows", rows.len());
    for (row, tests) in rows {
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            assert!(known.contains(test), "{test} is no test: {row}");
        }
    }
}
