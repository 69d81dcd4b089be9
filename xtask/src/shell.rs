//! Other programs, run with their output shown or kept, and lines for the person at the terminal.
//!
//! It must not know what is run.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use mesh_tests::process;

use crate::workspace;

/// One line on standard output.
pub(crate) fn line(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{text}").context("write to the terminal")
}

/// One step: says what is done, does it, says how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    line(&format!("▶ {what}"))?;
    let began = Instant::now();
    let done = work().with_context(|| what.to_owned())?;
    line(&format!("  done in {:.1} s", began.elapsed().as_secs_f64()))?;
    Ok(done)
}

/// A command that runs in the root of the repository.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(workspace::root());
    command
}

/// Cargo itself, the one that runs this command.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(args).current_dir(workspace::root());
    if let Ok(path) = env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    command
}

/// Runs a command with its output on the terminal; anything but success is an error.
pub(crate) fn show(command: &mut Command, limit: Duration) -> Result<()> {
    let shown = described(command);
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let status = process::wait(&mut child, limit).with_context(|| format!("wait for {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it wrote; anything but success is an error with what it said.
pub(crate) fn read(command: &mut Command, limit: Duration) -> Result<String> {
    let shown = described(command);
    let output = process::run(command, limit)?.success().with_context(|| shown)?;
    Ok(output.stdout)
}

/// Where a program is in the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    search_path()
        .into_iter()
        .map(|dir| dir.join(program))
        .find(|file| is_file(file))
}

/// Where cargo keeps what it fetched and installed.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or(home)
}

/// `PATH`, where `cargo install` puts things, and where Debian keeps what only root runs.
fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = cargo_home().map(|home| home.join("bin"));
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(installed).chain(system).collect()
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file())
}

fn described(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words: Vec<_> = [program]
        .into_iter()
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}
