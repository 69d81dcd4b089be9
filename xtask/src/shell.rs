//! Other programs, run with their output shown or kept, and lines for the person at the terminal.
//!
//! It must not know what is run.

use std::ffi::OsString;
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
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| is_file(file))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file())
}

fn described(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
