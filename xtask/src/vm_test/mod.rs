//! `cargo xtask vm-test`: the kernel tests of the agent on Debian's kernels, each in a virtual machine.
//!
//! Software emulation: minutes a kernel, so no part of `.ci/run`. It must not know what is tested.

mod findings;
mod guest;
mod initramfs;
mod kernels;
mod machine;

use anyhow::{Result, bail};
use mesh_tests::interrupt;
use serde_json::json;

use crate::report::ReportTo;
use crate::setup;
use crate::shell::{line, step};
use crate::vm_test::findings::Findings;
use crate::vm_test::guest::Guest;
use crate::vm_test::kernels::{LINES, Line};

/// Which kernels.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run on this kernel only: 5.10, 6.1, 6.12 or newest
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    #[command(flatten)]
    report: ReportTo,
}

/// Runs the tests on each kernel, one after the other, and prints kernels by features.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let lines: Vec<&Line> = LINES
        .iter()
        .filter(|line| arguments.kernel.as_deref().is_none_or(|name| line.name == name))
        .collect();
    if lines.is_empty() {
        let known: Vec<_> = LINES.iter().map(|line| line.name).collect();
        bail!("no such kernel; there are {}", known.join(", "));
    }
    setup::for_virtual_machines()?;
    let guest = step("the tests", Guest::prepare)?;
    let mut all = Vec::new();
    let mut failures = Vec::new();
    for one in lines {
        interrupt::check()?;
        match test_on(one, &guest) {
            Ok(seen) => {
                let broken = seen.failures(one.is_served).into_iter();
                failures.extend(broken.map(|what| format!("{}: {what}", seen.release)));
                all.push(seen);
            }
            // What was found out about the others is shown all the same.
            Err(error) => failures.push(format!("{}: {error:#}", one.name)),
        }
    }
    line("")?;
    line(&findings::table(&all))?;
    arguments
        .report
        .write(&json!({ "kernels": all, "failures": failures }))?;
    for failure in &failures {
        line(&format!("✗ {failure}"))?;
    }
    if !failures.is_empty() {
        bail!("{} claims fail", failures.len());
    }
    Ok(())
}

fn test_on(one: &Line, guest: &Guest) -> Result<Findings> {
    let kernel = step(&format!("Debian's kernel {}", one.name), || kernels::fetch(one))?;
    let mut seen = Findings {
        release: kernel.release.clone(),
        version: kernel.version.clone(),
        ..Findings::default()
    };
    let initramfs = guest.pack(&kernel)?;
    let mut unfinished = None;
    step(&format!("Linux {}", kernel.release), || {
        machine::run(&kernel.image, &initramfs, |text| {
            if let Some((claim, holds)) = seen.take(text, &mut unfinished) {
                let mark = if holds { "✓" } else { "✗" };
                mesh_tests::say(&format!("  {mark} {claim}"));
            }
        })
    })?;
    if let Some(why) = &seen.refused {
        line(&format!("  the agent refuses: {why}"))?;
    }
    Ok(seen)
}
