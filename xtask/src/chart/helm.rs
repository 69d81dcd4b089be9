//! Helm, built once from its Go module into the user's cache, and what is asked of it.
//!
//! It must not know what the chart is for.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::shell::{command, find, read, show, step};
use crate::workspace;

/// The program.
#[derive(Debug)]
pub(super) struct Helm(PathBuf);

impl Helm {
    /// The one that was built before, if any.
    pub(super) fn found() -> Result<Option<Self>> {
        let program = place()?.join("helm");
        Ok(program.exists().then_some(Self(program)))
    }

    /// Builds it where there is none.
    pub(super) fn built() -> Result<Self> {
        if let Some(found) = Self::found()? {
            return Ok(found);
        }
        ensure!(
            find("go").is_some(),
            "helm is built with Go 1.26 or later, and there is no `go`: install it (https://go.dev/dl)"
        );
        let dir = place()?;
        let aside = dir.with_extension(std::process::id().to_string());
        fs::create_dir_all(&aside).with_context(|| format!("make {}", aside.display()))?;
        step("helm (two minutes or more, once)", || {
            let mut go = command("nice", &["go", "build", "-trimpath", "-buildvcs=false"]);
            go.args(["-ldflags=-s -w", "-o"]).arg(&aside).arg(PACKAGE);
            show(go.current_dir(module()).env("CGO_ENABLED", "0"), BUILD)
        })?;
        // The folder appears whole; who was first wins, and both built the same.
        if fs::rename(&aside, &dir).is_err() {
            ensure!(dir.exists(), "cannot name {} {}", aside.display(), dir.display());
            fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
        }
        Ok(Self(dir.join("helm")))
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

/// Not the build directory: that is removed more often than Helm has a new version.
fn place() -> Result<PathBuf> {
    let go_mod = fs::read_to_string(module().join("go.mod")).context("read tests/helm/go.mod")?;
    let mut hasher = DefaultHasher::new();
    go_mod.hash(&mut hasher);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let cache = cache.context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join(format!("node-mesh/helm/{:016x}", hasher.finish())))
}

fn module() -> PathBuf {
    workspace::root().join("tests/helm")
}

const PACKAGE: &str = "helm.sh/helm/v3/cmd/helm";
const NAMESPACE: &str = "mesh-system";
/// What tests/control-plane builds.
const KUBERNETES: &str = "1.36.0";
const BUILD: Duration = Duration::from_hours(1);
const LIMIT: Duration = Duration::from_mins(2);
