//! `cargo xtask setup`: makes the machine ready by itself; the second time it only looks, in well under a second.
//!
//! It must not build or run anything of the mesh. What is installed is listed in the files of this folder.

mod apt;
mod envoy;
mod go;
mod kernel_toolchain;
mod musl;
mod python;
mod spire;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mesh_tests::cgroup;
use mesh_tests::cluster::image::Platform;

pub(crate) use envoy::program as envoy;
pub(crate) use go::program as go;
pub(crate) use kernel_toolchain::has_nightly_with_source;
pub(crate) use spire::VERSION as SPIRE_VERSION;

use crate::shell::line;

/// Makes everything ready for the lab, the demo and the tests.
pub(crate) fn run() -> Result<()> {
    ensure_linux_with_root()?;
    apt::install(apt::LAB_PACKAGES)?;
    python::install()?;
    kernel_toolchain::install()?;
    line("✓ the machine is ready")
}

/// Makes everything ready to test other kernels than the one that runs.
pub(crate) fn for_virtual_machines() -> Result<()> {
    ensure_linux_with_root()?;
    apt::install(apt::VM_PACKAGES)?;
    kernel_toolchain::install()
}

/// Makes everything ready for real nodes, except what is built from Go modules.
pub(crate) fn for_kubernetes() -> Result<()> {
    ensure_linux_with_root()?;
    apt::install(apt::LAB_PACKAGES)?;
    apt::install(apt::KUBERNETES_PACKAGES)
}

/// Makes ready what links the agent statically for a platform, kernel programs too, and says where musl's headers are.
pub(crate) fn for_static_builds(platform: Platform) -> Result<PathBuf> {
    kernel_toolchain::install()?;
    musl::install(platform)
}

/// Makes a real SPIRE ready, which only the suite `spire` needs: it takes longer to build than all else together.
pub(crate) fn for_spire() -> Result<()> {
    spire::install()
}

/// Installs proxies to measure against; Envoy alone is no Debian package.
pub(crate) fn for_bench(with_envoy: bool) -> Result<()> {
    apt::install(apt::BENCH_PACKAGES)?;
    if with_envoy {
        envoy::install()?;
    }
    Ok(())
}

/// Installs what conformance suites of others are built and run by.
pub(crate) fn for_conformance(packages: &[&str]) -> Result<()> {
    ensure_linux_with_root()?;
    apt::install(packages)
}

/// One clear line where the machine cannot do it at all.
fn ensure_linux_with_root() -> Result<()> {
    ensure!(
        cfg!(target_os = "linux"),
        "the mesh runs on Linux 5.15 or later only"
    );
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let effective_user = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    ensure!(
        effective_user == Some("0"),
        "simulated nodes need root (network namespaces, cgroups, eBPF): run this command with sudo"
    );
    cgroup::mount_point()?;
    Ok(())
}
