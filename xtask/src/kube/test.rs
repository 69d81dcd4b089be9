//! `cargo xtask kube test`: what is claimed of real nodes, in a cluster made for it.
//!
//! Nothing is skipped here: a cluster that does not come up is a failure. It must not know what is claimed.

use std::cell::RefCell;

use anyhow::{Result, bail, ensure};
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::claims::{self, Hands};
use mesh_tests::site::Site;
use serde_json::{Value, json};

use super::{conformance, mesh, options};
use crate::chart;
use crate::report::ReportTo;
use crate::shell::line;
use crate::test::show;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only claims whose words contain this
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Name of the cluster, so that two checkouts can be tested side by side; ends in -lab
    #[arg(long = "name", value_name = "NAME", default_value = "kubetest-lab")]
    site: Site,
    #[command(flatten)]
    report: ReportTo,
}

/// Runs the claims.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let words = arguments.only.as_deref().unwrap_or_default().replace(' ', "_");
    let is_picked = |claim: &str| claim.contains(&words);
    ensure!(claims::all().any(is_picked), "no claim is picked by --only");
    let options = options(&arguments.site)?;
    let summary = RefCell::new(json!({}));
    let hands = Hands {
        install: &install,
        own_suite: &|cluster| {
            let judged = conformance::judge(cluster, None)?;
            summary.replace(judged.summary()?);
            judged.verdict(None)
        },
    };
    let verdicts = claims::run(&options, &is_picked, &hands, &show);
    let failed: Vec<_> = verdicts
        .iter()
        .filter(|verdict| verdict.failure.is_some())
        .collect();
    let passed = verdicts.len() - failed.len();
    let mut report = json!({
        "passed": passed,
        "failed": failed.len(),
        "claims": verdicts,
        "uncaptured_starts": claims::uncaptured_starts(),
        "failed_requests": claims::failed_requests(),
    });
    if let (Value::Object(report), Value::Object(of_suite)) = (&mut report, summary.into_inner()) {
        report.extend(of_suite);
    }
    arguments.report.write(&report)?;
    line(&format!("{passed} passed, {} failed", failed.len()))?;
    if !failed.is_empty() {
        bail!(
            "{} claims do not hold; logs are in {}",
            failed.len(),
            options.logs_to.display()
        );
    }
    Ok(())
}

/// The mesh, and before it the kinds that its users declare things in.
fn install(cluster: &Cluster) -> Result<()> {
    let crds = json!({ "apiVersion": "v1", "kind": "List", "items": chart::crds()? });
    cluster.apply_text(&crds.to_string())?;
    let established = [
        "wait",
        "--for=condition=Established",
        "crd",
        "--all",
        "--timeout=60s",
    ];
    cluster.kubectl(&established)?;
    mesh::install(cluster)
}
