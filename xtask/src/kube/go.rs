//! Go as it builds the programs of `tests/programs`: told to be quick, and heard while it works, which is long.
//!
//! It must not know what is built, nor where the results belong.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{interrupt, process};

use crate::shell::{command, line, read};
use crate::{setup, workspace};

/// Go, in the module whose `go.mod` and `go.sum` pin all that is built.
#[derive(Debug)]
pub(super) struct Go(PathBuf);

impl Go {
    /// Installed where there is none.
    pub(super) fn new() -> Result<Self> {
        setup::go().map(Self)
    }

    /// Builds packages into a directory.
    pub(super) fn build(&self, packages: &[&str], version: &str, to: &Path) -> Result<()> {
        let linked = format!("-s -w -X k8s.io/component-base/version.gitVersion={version}");
        let mut go = self.command("build");
        go.args(QUICK).args(["-ldflags", &linked, "-o"]).arg(to);
        hear(go.args(packages))
    }

    /// Builds the tests of a package as a program.
    pub(super) fn compile_tests(&self, package: &str, to: &Path) -> Result<()> {
        let mut go = self.command("test");
        go.args(["-c", "-vet=off"]);
        go.args(QUICK).args(["-ldflags", "-s -w", "-o"]).arg(to);
        hear(go.arg(package))
    }

    /// Where the source is of a module that is required.
    pub(super) fn source_of(&self, module: &str) -> Result<PathBuf> {
        read(self.command("mod").args(["download", module]), LIMIT)?;
        let mut list = self.command("list");
        let said = read(list.args(["-m", "-f", "{{.Dir}}", module]), LIMIT)?;
        ensure!(!said.trim().is_empty(), "go does not say where {module} is");
        Ok(PathBuf::from(said.trim()))
    }

    /// Static programs, since some are put into images that hold nothing else.
    fn command(&self, what: &str) -> Command {
        let mut go = command(&self.0.display().to_string(), &[what]);
        go.current_dir(source());
        go.env("CGO_ENABLED", "0").env("GOGC", GARBAGE);
        go
    }
}

/// Where the Go module is.
pub(super) fn source() -> PathBuf {
    workspace::root().join("tests/programs")
}

/// Runs Go to its end; what it fetches and compiles is counted, all else that it says is shown.
fn hear(go: &mut Command) -> Result<()> {
    let mut child = go
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start go")?;
    let said = lines_of(child.stderr.take().context("what go says")?);
    if let Err(error) = listen(&said) {
        process::reap(&mut child)?;
        return Err(error);
    }
    let status = process::wait(&mut child, LIMIT).context("wait for go")?;
    ensure!(status.success(), "go: {status}");
    Ok(())
}

/// Until Go has said its last; every half minute a line, so that nobody takes it for dead.
fn listen(said: &Receiver<std::io::Result<String>>) -> Result<()> {
    let began = Instant::now();
    let (mut fetched, mut compiled, mut told) = (0_u32, 0_u32, began);
    while began.elapsed() < LIMIT {
        interrupt::check()?;
        match said.recv_timeout(MOMENT) {
            Ok(text) => {
                let text = text.context("read what go says")?;
                if is_package(&text) {
                    compiled += 1;
                } else if text.starts_with("go: downloading ") {
                    fetched += 1;
                } else {
                    line(&format!("  {text}"))?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if told.elapsed() >= SILENCE {
            told = Instant::now();
            let seconds = began.elapsed().as_secs();
            line(&format!(
                "  after {seconds} s: {fetched} modules fetched, {compiled} packages compiled"
            ))?;
        }
    }
    bail!("go did not come to its end within {LIMIT:?}")
}

fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<std::io::Result<String>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for text in BufReader::new(pipe).lines() {
            // Nobody listens any more: the build was given up.
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What `-v` says of each package; complaints are sentences, and begin with `#` or the place in a file.
fn is_package(text: &str) -> bool {
    !text.is_empty() && !text.contains([' ', ':', '#'])
}

/// Nobody will debug these programs, and what a debugger needs is a fifth of the compiler's work.
const QUICK: [&str; 4] = ["-v", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false"];
/// Collected less often than usual: a package takes some hundred megabytes, and there are as many at once as cores.
const GARBAGE: &str = "400";
const MOMENT: Duration = Duration::from_millis(500);
const SILENCE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_told_from_a_complaint() {
        assert!(is_package("k8s.io/api/core/v1"));
        assert!(is_package("internal/cpu"));
        for complaint in [
            "",
            "# k8s.io/api/core/v1",
            "go: downloading k8s.io/api v0.36.3",
            "main.go:3:1: syntax error",
        ] {
            assert!(!is_package(complaint), "{complaint}");
        }
    }

    #[test]
    fn a_build_that_fails_is_an_error_and_one_that_ends_well_is_none() {
        let mut fails = Command::new("sh");
        let error = hear(fails.args(["-c", "echo k8s.io/api >&2; exit 3"])).unwrap_err();
        assert!(format!("{error:#}").contains('3'), "{error:#}");
        hear(Command::new("sh").args(["-c", "echo k8s.io/api >&2"])).unwrap();
    }
}
