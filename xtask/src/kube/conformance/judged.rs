//! What the suite said: its report by profile, and each test of its own by the output of Go's test runner.
//!
//! It must not judge. Both are needed: the report leaves out tests that belong to no profile, most of those of the mesh's own.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// The part of a `ConformanceReport` that is judged.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// `standard` or `experimental`.
    #[serde(rename = "gatewayAPIChannel")]
    pub(crate) channel: String,
    /// The version of Gateway API that was judged by.
    #[serde(rename = "gatewayAPIVersion")]
    pub(crate) version: String,
    profiles: Vec<Profile>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    name: String,
    core: Status,
    extended: Option<Extended>,
}

#[derive(Debug, Deserialize)]
struct Status {
    statistics: Tally,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extended {
    statistics: Tally,
    #[serde(default)]
    unsupported_features: Vec<String>,
}

/// Tests by how they ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "PascalCase"))]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Report {
    /// Reads the suite's report.
    pub(crate) fn read(text: &str) -> Result<Self> {
        serde_yaml_ng::from_str(text).context("the suite's report is not what it was")
    }

    /// Core and extended tests together, by profile.
    pub(crate) fn profiles(&self) -> BTreeMap<&str, Tally> {
        let tally = |profile: &Profile| {
            let extended = profile.extended.as_ref().map(|extended| extended.statistics);
            profile.core.statistics.and(extended.unwrap_or_default())
        };
        let profiles = self.profiles.iter();
        profiles
            .map(|profile| (profile.name.as_str(), tally(profile)))
            .collect()
    }

    /// What a profile has and was not asked of this mesh.
    pub(crate) fn unsupported(&self) -> impl Iterator<Item = &str> {
        let extended = self
            .profiles
            .iter()
            .filter_map(|profile| profile.extended.as_ref());
        extended.flat_map(|extended| extended.unsupported_features.iter().map(String::as_str))
    }
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// How one test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "was skipped",
        })
    }
}

/// The suite's tests of the mesh, by name, as the output of Go's test runner has them.
///
/// Errors: there is none, or one ended twice.
pub(crate) fn tests(output: &str) -> Result<BTreeMap<&str, Verdict>> {
    let mut tests = BTreeMap::new();
    for (name, verdict) in output.lines().filter_map(ended) {
        ensure!(tests.insert(name, verdict).is_none(), "{name} ended twice");
    }
    ensure!(!tests.is_empty(), "no test of the mesh was run");
    Ok(tests)
}

/// A line that says how a test ended; those of its own parts stand further in.
fn ended(line: &str) -> Option<(&str, Verdict)> {
    let (word, rest) = line.strip_prefix("    --- ")?.split_once(": TestConformance/")?;
    let name = rest.split(' ').next().filter(|name| name.starts_with("Mesh"))?;
    let verdict = match word {
        "PASS" => Verdict::Passed,
        "FAIL" => Verdict::Failed,
        "SKIP" => Verdict::Skipped,
        _ => return None,
    };
    Some((name, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: ConformanceReport
gatewayAPIChannel: experimental
gatewayAPIVersion: v1.6.1
profiles:
- name: MESH-HTTP
  summary: Core tests succeeded. Extended tests failed with 1 test failures.
  core:
    result: success
    statistics: { Failed: 0, Passed: 7, Skipped: 0 }
  extended:
    result: failure
    failedTests: [MeshHTTPRouteRedirectPort]
    statistics: { Failed: 1, Passed: 5, Skipped: 2 }
    supportedFeatures: [MeshConsumerRoute]
    unsupportedFeatures: [MeshClusterIPMatching]
- name: MESH-GRPC
  summary: Core tests succeeded.
  core:
    result: success
    statistics: { Failed: 0, Passed: 2, Skipped: 0 }
";

    const OUTPUT: &str = "\
=== RUN   TestConformance/MeshBasic
--- FAIL: TestConformance (61.20s)
    --- PASS: TestConformance/MeshBasic (0.51s)
        --- PASS: TestConformance/MeshBasic/0_request_to_'echo/'_should_receive_one_of_[200] (0.50s)
    --- FAIL: TestConformance/MeshPorts (30.10s)
        --- FAIL: TestConformance/MeshPorts/No_port_set (30.00s)
    --- SKIP: TestConformance/MeshConsumerRoute (0.00s)
    --- SKIP: TestConformance/GatewayInfrastructure (0.00s)
FAIL
";

    #[test]
    fn profiles_count_core_and_extended_tests_together() {
        let report = Report::read(REPORT).unwrap();
        let tally = |passed, failed, skipped| Tally {
            passed,
            failed,
            skipped,
        };
        let wanted = [("MESH-GRPC", tally(2, 0, 0)), ("MESH-HTTP", tally(12, 1, 2))];
        assert_eq!(report.profiles(), wanted.into());
        assert_eq!(
            report.unsupported().collect::<Vec<_>>(),
            ["MeshClusterIPMatching"]
        );
    }

    #[test]
    fn tests_of_the_mesh_are_counted_and_not_their_parts_nor_those_of_gateways() {
        let wanted = [
            ("MeshBasic", Verdict::Passed),
            ("MeshConsumerRoute", Verdict::Skipped),
            ("MeshPorts", Verdict::Failed),
        ];
        assert_eq!(tests(OUTPUT).unwrap(), wanted.into());
    }

    #[test]
    fn a_suite_that_ran_nothing_is_no_success() {
        assert!(tests("PASS\n").is_err());
        assert!(tests("    --- SKIP: TestConformance/GatewayInfrastructure (0.00s)\n").is_err());
        assert!(tests(&OUTPUT.repeat(2)).is_err());
    }
}
