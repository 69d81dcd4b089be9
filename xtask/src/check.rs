//! `cargo xtask check`: everything that can be judged with no root, no LLVM and no kernel.
//!
//! All steps run, also after one has failed, so that one look shows all there is to mend. It must not install
//! anything but `cargo-deny`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mesh_tests::interrupt;
use serde::Serialize;
use serde_json::json;

use crate::report::ReportTo;
use crate::shell::{self, cargo, line, show};
use crate::{chart, in_process, layers, workspace};

const LIMIT: Duration = Duration::from_mins(40);
const CARGO_DENY: &str = "0.20.2";

/// With this variable set, the agent is built with no kernel programs in it, so that no LLVM is needed.
const SKIP_EBPF: (&str, &str) = ("MESH_SKIP_EBPF", "1");

#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    result: Judged,
    seconds: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Judged {
    Passed,
    Failed(String),
    Skipped(String),
}

type Check = fn() -> Result<Judged>;

/// Runs all steps.
pub(crate) fn run(report: &ReportTo) -> Result<()> {
    let checks: [(&'static str, Check); 10] = [
        ("fmt", || passes(&mut cargo(&["fmt", "--all", "--check"]))),
        ("clippy", clippy_agent),
        ("clippy of the kernel programs", clippy_kernel_programs),
        (
            "clippy of the kernel programs for the kernel's target",
            clippy_kernel_target,
        ),
        ("deny bans licenses sources", || {
            passes(&mut deny(&["bans", "licenses", "sources"])?)
        }),
        ("deny advisories", deny_advisories),
        ("doc", doc),
        ("layers", || layers::run().map(|()| Judged::Passed)),
        ("chart", rendered_chart),
        ("unit and in-process tests", in_process_tests),
    ];
    let mut steps = Vec::new();
    for (name, check) in checks {
        interrupt::check()?;
        line(&format!("▶ {name}"))?;
        let began = Instant::now();
        let result = check().unwrap_or_else(|error| Judged::Failed(format!("{error:#}")));
        steps.push(Step {
            name,
            result,
            seconds: began.elapsed().as_secs_f64(),
        });
    }
    summarize(report, &steps)
}

fn summarize(report: &ReportTo, steps: &[Step]) -> Result<()> {
    line("")?;
    let mut failed = 0;
    for step in steps {
        let (mark, note) = match &step.result {
            Judged::Passed => ("✓", String::new()),
            Judged::Skipped(why) => ("-", format!(": skipped, {why}")),
            Judged::Failed(why) => {
                failed += 1;
                ("✗", format!(": {why}"))
            }
        };
        line(&format!("{mark} {} ({:.1} s){note}", step.name, step.seconds))?;
    }
    report.write(&json!({ "steps": steps, "failed": failed }))?;
    if failed > 0 {
        bail!("{failed} of {} checks failed", steps.len());
    }
    Ok(())
}

fn passes(command: &mut Command) -> Result<Judged> {
    show(command.env(SKIP_EBPF.0, SKIP_EBPF.1), LIMIT)?;
    Ok(Judged::Passed)
}

fn clippy_agent() -> Result<Judged> {
    let scope = ["clippy", "--workspace", "--exclude", "mesh-ebpf", "--all-targets"];
    passes(cargo(&scope).args(["--", "-D", "warnings"]))
}

/// For the host: what every developer has.
fn clippy_kernel_programs() -> Result<Judged> {
    let mut clippy = cargo(&["clippy", "--package", "mesh-ebpf"]);
    // A host's `core` expects unwinding, which a program with no `std` cannot offer.
    clippy.env("CARGO_PROFILE_DEV_PANIC", "abort");
    passes(clippy.args(["--", "-D", "warnings"]))
}

/// For the kernel's own target: where there is a compiler that can build `core` for it.
fn clippy_kernel_target() -> Result<Judged> {
    let Some(mut clippy) = kernel_clippy() else {
        return Ok(Judged::Skipped(
            "it needs a rustup nightly with rust-src and clippy, or Debian's rust-web-clippy and rust-web-src".to_owned(),
        ));
    };
    clippy.args([
        "--package",
        "mesh-ebpf",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
    ]);
    // Its own directory: another compiler would rebuild all that is in the usual one.
    clippy
        .arg("--target-dir")
        .arg(workspace::target().join("kernel-check"));
    passes(clippy.args(["--", "-D", "warnings"]))
}

fn kernel_clippy() -> Option<Command> {
    if crate::setup::has_nightly_with_source() {
        let rustup = shell::find("rustup")?;
        let mut command = shell::command(
            &rustup.display().to_string(),
            &["run", "nightly", "cargo", "clippy"],
        );
        // Cargo tells its children which compiler to use; the nightly has its own.
        for inherited in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
            command.env_remove(inherited);
        }
        let has_clippy = shell::read(
            shell::command(
                &rustup.display().to_string(),
                &["run", "nightly", "cargo-clippy", "--version"],
            )
            .env_remove("RUSTUP_TOOLCHAIN"),
            LIMIT,
        );
        return has_clippy.is_ok().then_some(command);
    }
    let (driver, source) = (
        Path::new("/usr/bin/cargo-clippy"),
        Path::new("/usr/lib/rustlib/src/rust/library"),
    );
    (driver.exists() && source.exists()).then(|| {
        // Not by way of cargo, which would take the `cargo-clippy` of rustup first.
        let mut command = shell::command("/usr/bin/cargo-clippy", &["clippy"]);
        command
            .env("CARGO", "/usr/bin/cargo")
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", "/usr/bin/rustc")
            .env_remove("RUSTUP_TOOLCHAIN");
        command
    })
}

fn deny(checks: &[&str]) -> Result<Command> {
    if shell::find("cargo-deny").is_none() {
        shell::step("cargo-deny (about three minutes, once)", || {
            show(
                &mut cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked"]),
                LIMIT,
            )
        })?;
    }
    // Duplicates of small crates are told by `cargo deny check bans` on its own; here they would hide what matters.
    let mut command = cargo(&["deny", "--log-level", "error", "check"]);
    command.args(checks);
    Ok(command)
}

/// Advisories come from a database on the network; without it this says so, and judges nothing.
fn deny_advisories() -> Result<Judged> {
    let fetched = shell::read(&mut cargo(&["deny", "fetch", "db"]), Duration::from_mins(3));
    match fetched {
        Ok(_) => passes(&mut deny(&["advisories"])?),
        Err(error) => Ok(Judged::Skipped(format!(
            "the advisory database cannot be fetched: {}",
            format!("{error:#}").lines().next().unwrap_or_default()
        ))),
    }
}

fn doc() -> Result<Judged> {
    let mut doc = cargo(&[
        "doc",
        "--workspace",
        "--exclude",
        "mesh-ebpf",
        "--no-deps",
        "--document-private-items",
    ]);
    passes(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Where Helm was built before: that takes minutes, once, and `cargo xtask chart` does it.
fn rendered_chart() -> Result<Judged> {
    if chart::check()? {
        return Ok(Judged::Passed);
    }
    Ok(Judged::Skipped(
        "helm was not built yet: cargo xtask chart".to_owned(),
    ))
}

fn in_process_tests() -> Result<Judged> {
    let command = || {
        let mut tests = in_process::command();
        tests.env(SKIP_EBPF.0, SKIP_EBPF.1);
        tests
    };
    let (counts, flaky) = in_process::run_again(command)?;
    if let Some(flaky) = flaky {
        line(&format!("~ failed once, then held: {flaky}"))?;
    }
    if counts.failed > 0 || !counts.is_whole {
        bail!("{} passed, {} failed", counts.passed, counts.failed);
    }
    Ok(Judged::Passed)
}
