//! `cargo xtask kube test`: what is claimed of real nodes, in a cluster made for it.
//!
//! Nothing is skipped here: a cluster that does not come up is a failure. What fails once and holds in a second cluster is
//! no failure, but it is named, as `cargo xtask test` does. It must not know what is claimed.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use mesh_tests::cluster::claims::{self, Hands};
use mesh_tests::cluster::{Cluster, Options};
use mesh_tests::interrupt;
use mesh_tests::site::Site;
use mesh_tests::suites::Verdict;
use serde_json::{Value, json};

use super::conformance::Programs;
use super::{build, conformance, mesh, options};
use crate::chart;
use crate::in_process::FEW;
use crate::report::ReportTo;
use crate::shell::line;
use crate::test::{in_words, show};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only claims whose words contain this
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Name of the cluster, so that two checkouts can be tested side by side; ends in -lab
    #[arg(long = "name", value_name = "NAME", default_value = "kubetest-lab")]
    site: Site,
    /// Give nothing a second run: to look for what fails once in a while
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    chosen: mesh::Chosen,
    #[command(flatten)]
    report: ReportTo,
}

/// Builds what is missing of a cluster, and runs the claims.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let words = arguments.only.as_deref().unwrap_or_default().replace(' ', "_");
    let is_picked = |claim: &str| claim.contains(&words);
    ensure!(claims::all().any(is_picked), "no claim is picked by --only");
    let began = Instant::now();
    build::all()?;
    let own_suite = Programs::built()?;
    let built = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let mut options = options(&arguments.site)?;
    let mut ran = Ran::of(&options, &arguments.chosen, &own_suite, &is_picked);
    let of_first: Vec<_> = ran.failed().map(in_words).collect();
    let mut flaky = Vec::new();
    let is_few = u64::try_from(of_first.len()).is_ok_and(|failed| (1..=FEW).contains(&failed));
    if is_few && !arguments.once {
        interrupt::check()?;
        line("▶ once more, in a new cluster")?;
        options.logs_to.push("again");
        ran = Ran::of(&options, &arguments.chosen, &own_suite, &is_picked);
        if ran.failed().next().is_none() {
            flaky = of_first;
        }
    }
    let seconds = json!({ "build": built, "claims": began.elapsed().as_secs_f64() });
    arguments.report.write(&ran.report(&flaky, &seconds))?;
    for once in &flaky {
        line(&format!("~ failed once, then held: {once}"))?;
    }
    let failed = ran.failed().count();
    line(&format!(
        "{} passed, {failed} failed",
        ran.verdicts.len() - failed
    ))?;
    if failed > 0 {
        bail!(
            "{failed} claims do not hold; logs are in {}",
            options.logs_to.display()
        );
    }
    Ok(())
}

/// What came of all claims in one cluster.
struct Ran {
    verdicts: Vec<Verdict>,
    /// What Gateway API's own suite came to; empty where it did not come to its end.
    of_suite: Value,
}

impl Ran {
    fn of(
        options: &Options,
        chosen: &mesh::Chosen,
        own_suite: &Programs,
        is_picked: &dyn Fn(&str) -> bool,
    ) -> Self {
        let of_suite = RefCell::new(json!({}));
        let hands = Hands {
            install: &|cluster| install(cluster, chosen),
            own_suite: &|cluster| {
                let judged = conformance::judge(cluster, own_suite, None)?;
                of_suite.replace(judged.summary()?);
                judged.verdict(None)
            },
        };
        let verdicts = claims::run(options, is_picked, &hands, &show);
        Self {
            verdicts,
            of_suite: of_suite.into_inner(),
        }
    }

    fn failed(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| verdict.failure.is_some())
    }

    fn report(&self, flaky: &[String], seconds: &Value) -> Value {
        let failed = self.failed().count();
        let mut report = json!({
            "passed": self.verdicts.len() - failed,
            "failed": failed,
            "flaky": flaky,
            "seconds": seconds,
            "claims": self.verdicts,
            "uncaptured_starts": claims::uncaptured_starts(),
            "failed_requests": claims::failed_requests(),
        });
        if let (Value::Object(report), Value::Object(of_suite)) = (&mut report, &self.of_suite) {
            report.extend(of_suite.clone());
        }
        report
    }
}

/// The mesh, and before it the kinds that its users declare things in.
fn install(cluster: &Cluster, chosen: &mesh::Chosen) -> Result<()> {
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
    mesh::install(cluster, chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(claim: &str, failure: Option<&str>) -> Verdict {
        Verdict {
            suite: "nodes",
            claim: claim.to_owned(),
            failure: failure.map(str::to_owned),
            seconds: 1.0,
        }
    }

    #[test]
    fn a_report_counts_the_last_run_and_names_what_failed_before_it() {
        let ran = Ran {
            verdicts: vec![verdict("holds", None), verdict("does_not", Some("why"))],
            of_suite: json!({ "conformance": { "MESH-HTTP": {} } }),
        };
        let report = ran.report(&["nodes: holds: once".to_owned()], &json!({ "build": 0.0 }));
        assert_eq!(report["passed"], 1);
        assert_eq!(report["failed"], 1);
        assert_eq!(report["flaky"], json!(["nodes: holds: once"]));
        assert_eq!(report["claims"][1]["claim"], "does_not");
        assert!(report["conformance"]["MESH-HTTP"].is_object());
    }
}
