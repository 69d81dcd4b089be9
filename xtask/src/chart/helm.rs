//! Helm, and what is asked of it.
//!
//! It must not know what the chart is for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::kube;
use crate::shell::{command, read};

/// The program.
#[derive(Debug)]
pub(super) struct Helm(PathBuf);

impl Helm {
    /// The one that was built before, if any.
    pub(super) fn found() -> Result<Option<Self>> {
        Ok(kube::built(HELM)?.map(Self))
    }

    /// Builds it where there is none.
    pub(super) fn built() -> Result<Self> {
        Ok(Self(kube::programs(&[HELM])?.join(HELM)))
    }

    /// Errors: a rule of `helm lint` does not hold, a warning included.
    pub(super) fn lint(&self, chart: &Path, values: &Path) -> Result<()> {
        let args = ["lint", "--strict", "--quiet", "--namespace", NAMESPACE];
        read(self.with(&args, values).arg(chart), LIMIT).map(drop)
    }

    /// All objects of the chart with these values, CRDs first.
    pub(super) fn template(&self, chart: &Path, values: &Path) -> Result<String> {
        let args = ["template", "mesh", "--include-crds", "--namespace", NAMESPACE];
        read(self.with(&args, values).arg(chart), LIMIT)
    }

    fn with(&self, args: &[&str], values: &Path) -> std::process::Command {
        let mut helm = command(&self.0.display().to_string(), args);
        // Without a cluster it takes the oldest Kubernetes that it knows.
        helm.args(["--kube-version", KUBERNETES, "--values"]).arg(values);
        helm
    }
}

const HELM: &str = "helm";
const NAMESPACE: &str = "mesh-system";
/// What tests/programs builds.
const KUBERNETES: &str = "1.36.0";
const LIMIT: Duration = Duration::from_mins(2);
