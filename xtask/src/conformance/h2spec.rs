//! Builds h2spec, a program in Go, once for each version that `tests/lab/h2spec/go.mod` names.
//!
//! It must not run it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::setup;
use crate::shell::{find, show, step};
use crate::workspace;

/// Builds it, unless that was done, and returns the directory that it is in.
pub(crate) fn build() -> Result<PathBuf> {
    let source = workspace::root().join("tests/lab/h2spec");
    let dir = workspace::target().join("lab-h2spec");
    let wanted = fs::read_to_string(source.join("go.sum")).with_context(|| source.display().to_string())?;
    let stamp = dir.join("built.txt");
    if fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(dir);
    }
    if find("go").is_none() {
        setup::for_conformance(&["golang-go"])?;
    }
    let program = dir.join("h2spec").display().to_string();
    let go = find("go").context("no Go tool chain in the search path")?;
    step("h2spec (half a minute, once)", || {
        let mut build = std::process::Command::new(go);
        build
            .args(["build", "-mod=readonly", "-o", &program, PACKAGE])
            .current_dir(&source);
        show(&mut build, LIMIT)
    })?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(dir)
}

const PACKAGE: &str = "github.com/summerwind/h2spec/cmd/h2spec";
const LIMIT: Duration = Duration::from_mins(10);
