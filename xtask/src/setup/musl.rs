//! What links the agent statically: a target of rustc, a C compiler, and musl's headers for either architecture.
//!
//! Headers for another architecture are unpacked into the build directory, so that this machine's package manager need not
//! know that architecture. It must not build anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::cluster::image::Platform;

use crate::setup::apt;
use crate::shell::{command, read, show, step};
use crate::workspace;

/// Makes everything ready, and says where musl's headers are.
pub(crate) fn install(platform: Platform) -> Result<PathBuf> {
    add_target(&format!("{}-unknown-linux-musl", platform.machine()))?;
    let in_system = format!("usr/include/{}-linux-musl", platform.machine());
    if platform == Platform::here()? {
        apt::install(&["binutils", "ca-certificates", "gcc", "musl-dev"])?;
        return Ok(Path::new("/").join(in_system));
    }
    let compiler = format!("gcc-{}-linux-gnu", platform.machine().replace('_', "-"));
    apt::install(&["binutils", "ca-certificates", &compiler])?;
    let dir = workspace::target().join("musl").join(platform.architecture());
    let headers = dir.join(in_system);
    if !headers.join("stdio.h").exists() {
        step(&format!("musl's headers for {}", platform.architecture()), || {
            unpack_headers(&dir, platform.architecture())
        })?;
    }
    ensure!(
        headers.join("stdio.h").exists(),
        "no headers in {}",
        headers.display()
    );
    Ok(headers)
}

/// Has rustup add a target; a rustc without rustup must have it.
fn add_target(target: &str) -> Result<()> {
    let libraries = read(
        &mut command("rustc", &["--print", "target-libdir", "--target", target]),
        QUICK,
    )?;
    if Path::new(libraries.trim()).is_dir() {
        return Ok(());
    }
    step(&format!("rustup target add {target}"), || {
        show(&mut command("rustup", &["target", "add", target]), DOWNLOAD)
    })
}

/// Fetches a package of another architecture with lists of its own, signatures checked as always, and unpacks it.
fn unpack_headers(dir: &Path, architecture: &str) -> Result<()> {
    let own = dir.join("apt");
    for part in ["lists/partial", "cache/archives/partial"] {
        let part = own.join(part);
        fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    }
    let here = Platform::here()?.architecture();
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.current_dir(&own)
            .arg("--quiet")
            .args([here, architecture].map(|known| format!("--option=APT::Architectures::={known}")))
            .arg(format!(
                "--option=Dir::State::Lists={}",
                own.join("lists").display()
            ))
            .arg(format!("--option=Dir::Cache={}", own.join("cache").display()));
        apt
    };
    show(apt().arg("update"), DOWNLOAD)?;
    show(
        apt().args(["download", &format!("musl-dev:{architecture}")]),
        DOWNLOAD,
    )?;
    let files = fs::read_dir(&own).with_context(|| format!("list {}", own.display()))?;
    let mut packages = files
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "deb"));
    let package = packages.next().context("apt-get download left no package")?;
    show(
        Command::new("dpkg-deb").arg("--extract").arg(package).arg(dir),
        QUICK,
    )?;
    fs::remove_dir_all(&own).with_context(|| format!("remove {}", own.display()))
}

const QUICK: Duration = Duration::from_secs(30);
const DOWNLOAD: Duration = Duration::from_mins(10);
