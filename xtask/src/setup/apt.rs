//! Debian packages: only those that are missing, and none of their services is started.
//!
//! It must not know why a package is needed: the lists say so.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::shell::{find, line, show, step};

/// What the lab, its programs and its captures are made of.
pub(crate) const LAB_PACKAGES: &[&str] = &[
    "bind9-dnsutils",
    "ca-certificates",
    "curl",
    "dnsmasq-base",
    "haproxy",
    "iproute2",
    "mariadb-client",
    "mariadb-server",
    "netcat-openbsd",
    "nghttp2-client",
    "nginx-light|nginx",
    "openssl",
    "python3",
    "python3-venv",
    "redis-server",
    "redis-tools",
    "squid|squid-openssl",
    "tcpdump",
    "testssl.sh",
    "tinyproxy-bin",
    "util-linux",
    "wrk",
];

/// Proxies to measure against, beside what the lab has.
pub(crate) const BENCH_PACKAGES: &[&str] = &["haproxy", "nginx-light|nginx", "openssl"];

/// What real nodes need beside what is built for them.
pub(crate) const KUBERNETES_PACKAGES: &[&str] = &["bpftool", "busybox-static", "nftables", "runc"];

/// What virtual machines are made of, and run by.
pub(crate) const VM_PACKAGES: &[&str] = &[
    "binutils",
    "debian-archive-keyring",
    "iproute2",
    "kmod",
    "python3",
    "qemu-system-x86",
    "util-linux",
    "xz-utils",
    "zstd",
];

const LIMIT: Duration = Duration::from_mins(15);

/// Installs those packages that are missing. `a|b` is met by either, and `a` is installed where neither is there.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    ensure!(
        find("dpkg-query").is_some() && find("apt-get").is_some(),
        "only Debian and its kin can be made ready automatically; install these by hand: {}",
        packages.join(", ")
    );
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let _no_services = NoServices::new()?;
    step("apt-get update", || show(apt().arg("update"), LIMIT))?;
    step(&format!("apt-get install {}", missing.join(" ")), || {
        show(
            apt()
                .args(["install", "--yes", "--no-install-recommends"])
                .args(&missing),
            LIMIT,
        )
    })
}

/// Those of the packages that are not installed.
fn missing<'p>(packages: &[&'p str]) -> Result<Vec<&'p str>> {
    let names = packages.iter().flat_map(|package| package.split('|'));
    // Exits with 1 when it does not know one of them; what it knows is listed all the same.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Abbrev} ${Package}\n"])
        .args(names)
        .output()
        .context("start dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ii "))
        .map(str::trim)
        .collect();
    let absent = packages
        .iter()
        .filter(|package| !package.split('|').any(|name| installed.contains(&name)));
    Ok(absent
        .map(|package| package.split('|').next().unwrap_or(package))
        .collect())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["--quiet", "-o", "Dpkg::Use-Pty=0"]);
    command
}

/// While it lives, packages do not start their services: the lab runs its own nginx and redis, inside pods.
struct NoServices {
    is_ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { is_ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\n# 101: action forbidden by policy\nexit 101\n")
            .with_context(|| format!("write {POLICY}"))?;
        let policy = Self { is_ours: true };
        fs::set_permissions(POLICY, Permissions::from_mode(0o755))
            .with_context(|| format!("make {POLICY} executable"))?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        if let Err(error) = fs::remove_file(POLICY) {
            let told = line(&format!(
                "{POLICY} stays behind and keeps services from starting: {error}; remove it"
            ));
            if told.is_err() {
                mesh_tests::say(POLICY);
            }
        }
    }
}
