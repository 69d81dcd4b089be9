//! gRPC of Node.js: the package that `tests/lab/grpc-js/package-lock.json` names, inside Cargo's build directory.
//!
//! It must not know what is tried with it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::setup;
use crate::shell::{find, show, step};
use crate::workspace;

/// Where the packages are.
pub(crate) fn modules() -> PathBuf {
    dir().join("node_modules")
}

/// Installs them, unless exactly these are there.
pub(crate) fn install() -> Result<()> {
    let source = workspace::root().join("tests/lab/grpc-js");
    let lock = source.join("package-lock.json");
    let wanted = fs::read_to_string(&lock).with_context(|| lock.display().to_string())?;
    let stamp = dir().join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    if find("npm").is_none() || find("node").is_none() {
        setup::for_conformance(&["nodejs", "npm"])?;
    }
    fs::create_dir_all(dir()).with_context(|| dir().display().to_string())?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), dir().join(file)).with_context(|| format!("copy {file}"))?;
    }
    let npm = find("npm").context("no npm in the search path")?;
    step("gRPC for Node.js", || {
        let mut install = std::process::Command::new(npm);
        install
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(dir());
        show(&mut install, LIMIT)
    })?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())
}

fn dir() -> PathBuf {
    workspace::target().join("lab-grpc-js")
}

const LIMIT: Duration = Duration::from_mins(10);
