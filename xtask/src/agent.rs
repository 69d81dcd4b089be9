//! Builds the agent, or tests that it is linked to, kernel programs and all.
//!
//! It must not run it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell::{self, step};

/// Builds the agent and says where it is.
pub(crate) fn build() -> Result<PathBuf> {
    executable(&["build", "--package", "mesh-agent"], "mesh-agent")
}

/// Builds an optimised agent, as measuring needs it, and says where it is.
pub(crate) fn build_optimised() -> Result<PathBuf> {
    executable(&["build", "--release", "--package", "mesh-agent"], "mesh-agent")
}

/// The agent that somebody named, or else an optimised one that is built.
pub(crate) fn given_or_optimised(given: Option<&PathBuf>) -> Result<PathBuf> {
    match given {
        Some(file) => Ok(file.clone()),
        None => step("build an optimised agent", build_optimised),
    }
}

/// Has cargo build something and says where the executable of the target `name` is.
pub(crate) fn executable(args: &[&str], name: &str) -> Result<PathBuf> {
    built(&mut shell::cargo(args), name)
}

/// Runs a command of cargo's and says where the executable of the target `name` is.
pub(crate) fn built(cargo: &mut Command, name: &str) -> Result<PathBuf> {
    // Progress and compiler messages to the terminal, the list of artifacts to us.
    let child = cargo
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    let output = child
        .and_then(std::process::Child::wait_with_output)
        .context("start cargo")?;
    ensure!(output.status.success(), "{name} does not build");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let artifacts = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executables = artifacts.filter_map(|artifact| {
        let is_wanted = artifact.pointer("/target/name").and_then(Value::as_str) == Some(name);
        let file = artifact.get("executable").and_then(Value::as_str)?;
        is_wanted.then(|| PathBuf::from(file))
    });
    executables
        .next()
        .with_context(|| format!("cargo built no {name}"))
}
