//! `cargo xtask kube conformance`: Gateway API's own conformance suite, profiles MESH-HTTP and MESH-GRPC, against a real cluster.
//!
//! It must not know how a test judges, nor how the cluster is made: it gives the suite what it needs, and counts.

mod judged;
mod page;
mod programs;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::image::Image;
use mesh_tests::process;
use serde_json::{Value, json};

use self::judged::{Report, Verdict};
pub(super) use self::programs::Programs;
use self::programs::source;
use crate::report::ReportTo;
use crate::shell::{line, step};
use crate::workspace;

/// What to judge, and by what.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only this test, and leave docs/conformance/ alone
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    #[command(flatten)]
    report: ReportTo,
}

/// Runs the suite on a cluster with the mesh installed, writes its report to docs/conformance/, and fails unless all passed.
pub(crate) fn run(cluster: &Cluster, arguments: &Arguments) -> Result<()> {
    let only = arguments.only.as_deref();
    let judged = judge(cluster, &Programs::built()?, only)?;
    arguments.report.write(&judged.summary()?)?;
    if only.is_none() {
        page::write(&judged)?;
    }
    judged.verdict(only)
}

/// Prepares the cluster for the suite, and runs it to its end.
pub(crate) fn judge(cluster: &Cluster, programs: &Programs, only: Option<&str>) -> Result<Judged> {
    step("CRDs of the suite's version, and its echo server's image", || {
        prepare(cluster, programs)
    })?;
    step("Gateway API's conformance suite (ten minutes and more)", || {
        run_suite(cluster, programs, only)
    })
}

/// What the suite takes for granted: CRDs, the image of its pods, and pods that it waits for and does not make.
fn prepare(cluster: &Cluster, programs: &Programs) -> Result<()> {
    let files = programs.echo();
    let [(_, server), ..] = &files;
    let image = Image::new(ECHO, &[server])?;
    let image = files.iter().fold(image, |image, (file, at)| image.with(file, at));
    cluster.load("conformance-echo", &image)?;
    let crds = programs.crds().display().to_string();
    // Whoever installed the mesh may have brought them along, of another version even.
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", &crds])?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
        "--all",
    ])?;
    cluster.apply(&source().join("backends.yaml"))
}

/// Runs the suite's program to its end, wherever the API server can be reached from.
///
/// Errors: it ended before its report, or ran longer than it may.
fn run_suite(cluster: &Cluster, programs: &Programs, only: Option<&str>) -> Result<Judged> {
    let dir = workspace::target().join("kube-conformance");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let (report, log) = (dir.join("report.yaml"), dir.join("suite.log"));
    if report.exists() {
        fs::remove_file(&report).context("remove the report of an earlier run")?;
    }
    let mut program = vec![programs.suite().display().to_string()];
    program.extend(["-test.v", "-test.run=^TestConformance$"].map(str::to_owned));
    program.extend([
        format!("-test.timeout={}s", LIMIT.as_secs()),
        format!("--conformance-profiles={}", PROFILES.join(",")),
        format!("--supported-features={}", FEATURES.join(",")),
        format!("--namespace-labels={ENROLLED}"),
        format!("--report-output={}", report.display()),
        format!("--version=v{}", env!("CARGO_PKG_VERSION")),
    ]);
    program.extend(IMPLEMENTATION.map(str::to_owned));
    program.extend(only.map(|test| format!("--run-test={test}")));
    let ran = process::run(&mut cluster.command(&program)?, LIMIT + GRACE)?;
    let output = format!("{}{}", ran.stdout, ran.stderr);
    fs::write(&log, &output).with_context(|| format!("write {}", log.display()))?;
    line(&format!("  all that it said: {}", log.display()))?;
    let report = fs::read_to_string(&report);
    let report = report.with_context(|| format!("the suite wrote no report: {}", ran.status))?;
    Ok(Judged { output, report })
}

/// What came of one run of the suite.
#[derive(Debug)]
pub(crate) struct Judged {
    /// What the suite said, test by test.
    output: String,
    /// The suite's own report, as it wrote it.
    report: String,
}

impl Judged {
    /// `conformance` by profile, and `conformance_tests` by name, of which many belong to no profile.
    pub(crate) fn summary(&self) -> Result<Value> {
        let report = Report::read(&self.report)?;
        Ok(json!({
            "conformance": report.profiles(),
            "conformance_tests": judged::tests(&self.output)?,
        }))
    }

    /// Success where every test of the mesh ran and passed, and every profile has been judged with all its features;
    /// where only one test was asked for, that one.
    pub(crate) fn verdict(&self, only: Option<&str>) -> Result<()> {
        let tests = judged::tests(&self.output)?;
        let is_asked = |name: &str| only.is_none_or(|only| only == name);
        let short: Vec<String> = tests
            .iter()
            .filter(|(name, verdict)| is_asked(name) && **verdict != Verdict::Passed)
            .map(|(name, verdict)| format!("{name} {verdict}"))
            .collect();
        ensure!(short.is_empty(), "{} tests: {}", short.len(), short.join(", "));
        let passed = tests
            .values()
            .filter(|verdict| **verdict == Verdict::Passed)
            .count();
        ensure!(passed > 0, "no test of the mesh was run");
        if only.is_none() {
            complete(&Report::read(&self.report)?)?;
        }
        line(&format!("✓ {passed} tests of the mesh passed"))
    }
}

/// Nothing of a profile may be missing without a word.
fn complete(report: &Report) -> Result<()> {
    let profiles = report.profiles();
    for name in PROFILES {
        let tally = profiles
            .get(name)
            .with_context(|| format!("{name} was not judged"))?;
        line(&format!("  {name}: {tally}"))?;
        ensure!(
            tally.failed == 0 && tally.skipped == 0 && tally.passed > 0,
            "{name}: {tally}"
        );
    }
    let unsupported: Vec<&str> = report.unsupported().collect();
    ensure!(
        unsupported.is_empty(),
        "not asked of the mesh: {}",
        unsupported.join(", ")
    );
    Ok(())
}

/// What is judged.
const PROFILES: [&str; 2] = ["MESH-HTTP", "MESH-GRPC"];
/// All extended features of the mesh, and what of HTTPRoute its tests use. A test that needs more is skipped, and that fails.
const FEATURES: [&str; 14] = [
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
];
/// What the report says of the mesh; Gateway API wants each of them.
const IMPLEMENTATION: [&str; 4] = [
    "--organization=mesh-agent",
    "--project=mesh-agent",
    "--url=https://mesh-agent.dev",
    "--contact=https://mesh-agent.dev",
];
/// The image that the suite's manifests name.
const ECHO: &str = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1";
/// What the suite's namespaces are labelled with: their pods are in the mesh.
const ENROLLED: &str = "mesh-agent.dev/dataplane=enabled";
const LIMIT: Duration = Duration::from_mins(30);
/// For the suite to say itself that it ran out of time.
const GRACE: Duration = Duration::from_secs(30);
