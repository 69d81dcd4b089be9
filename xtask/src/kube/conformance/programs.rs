//! Gateway API's conformance suite and what it needs of others, built once a version: the suite, the echo server of its pods, the CRDs.
//!
//! It must not run them.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::build::cache;
use crate::shell::{command, find, read, show, step};
use crate::workspace;

/// A folder with all of it.
#[derive(Debug)]
pub(crate) struct Programs(PathBuf);

impl Programs {
    /// The folder of this version, which is made if it was not made on this machine before.
    pub(crate) fn built() -> Result<Self> {
        let (suite, echo) = (source(), source().join("echo"));
        let go_mod = |dir: &Path| {
            let file = dir.join("go.mod");
            fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
        };
        let (suite_mod, echo_mod) = (go_mod(&suite)?, go_mod(&echo)?);
        let version = version_of(&suite_mod).context("tests/conformance/go.mod names no suite")?;
        // Another version of anything is another folder; the name needs no more than to differ.
        let mut hasher = DefaultHasher::new();
        (&suite_mod, &echo_mod).hash(&mut hasher);
        let cache = cache("conformance")?;
        let dir = cache.join(format!("{version}-{:016x}", hasher.finish()));
        if dir.exists() {
            return Ok(Self(dir));
        }
        ensure!(
            find("go").is_some(),
            "the suite is built with Go 1.26 or later, and there is no `go`: install it (https://go.dev/dl)"
        );
        let aside = cache.join(format!("{version}-{}", std::process::id()));
        fs::create_dir_all(aside.join(CRDS)).with_context(|| format!("make {}", aside.display()))?;
        step(
            &format!("Gateway API's conformance suite {version} (five minutes, once)"),
            || {
                build_suite(&suite, &aside)?;
                build_echo(&echo, &aside)
            },
        )?;
        // The folder appears whole; who was first wins, and both built the same.
        if fs::rename(&aside, &dir).is_err() {
            ensure!(dir.exists(), "cannot name {} {}", aside.display(), dir.display());
            fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
        }
        Ok(Self(dir))
    }

    /// The suite: a test binary of Go.
    pub(crate) fn suite(&self) -> PathBuf {
        self.0.join(SUITE)
    }

    /// The directory with the CRDs of the suite's own version, those of the experimental channel.
    pub(crate) fn crds(&self) -> PathBuf {
        self.0.join(CRDS)
    }

    /// The files of the echo server's image, each with its path there; the first one is its entry point.
    pub(crate) fn echo(&self) -> [(PathBuf, &'static str); 4] {
        [
            (self.0.join("server"), "/usr/local/bin/server"),
            (self.0.join("client"), "/usr/local/bin/client"),
            (self.0.join(CERTIFICATE), "/cert.crt"),
            (self.0.join(KEY), "/cert.key"),
        ]
    }
}

fn build_suite(from: &Path, to: &Path) -> Result<()> {
    let mut go = go(&[
        "test",
        "-c",
        "-vet=off",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        "-s -w",
        "-o",
    ]);
    go.arg(to.join(SUITE)).arg(".").current_dir(from);
    show(&mut go, BUILD)?;
    let crds = module(from, "sigs.k8s.io/gateway-api")?.join("config/crd/experimental");
    let listed = fs::read_dir(&crds).with_context(|| format!("list {}", crds.display()))?;
    for file in listed {
        let name = file
            .with_context(|| format!("list {}", crds.display()))?
            .file_name();
        if name != "kustomization.yaml" {
            copy(&crds.join(&name), &to.join(CRDS).join(&name))?;
        }
    }
    Ok(())
}

fn build_echo(from: &Path, to: &Path) -> Result<()> {
    let mut go = go(&["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]);
    go.arg(to)
        .args(["server", "client"].map(|name| format!("{ISTIO}/pkg/test/echo/cmd/{name}")));
    show(go.current_dir(from), BUILD)?;
    let certificates = module(from, ISTIO)?.join("tests/testdata/certs/dns");
    copy(&certificates.join("cert-chain.pem"), &to.join(CERTIFICATE))?;
    copy(&certificates.join("key.pem"), &to.join(KEY))
}

/// Where the source of a module is that `from` requires.
fn module(from: &Path, name: &str) -> Result<PathBuf> {
    let mut download = command("go", &["mod", "download", name]);
    show(download.current_dir(from), DOWNLOAD)?;
    let mut list = command("go", &["list", "-m", "-f", "{{.Dir}}", name]);
    let said = read(list.current_dir(from), DOWNLOAD)?;
    ensure!(!said.trim().is_empty(), "go does not say where {name} is");
    Ok(PathBuf::from(said.trim()))
}

/// Go, as a guest on this machine; static programs, since their image holds nothing else.
fn go(args: &[&str]) -> std::process::Command {
    let mut nice = command("nice", &["-n", "19", "go"]);
    nice.args(args).env("CGO_ENABLED", "0");
    nice
}

/// The module cache is read-only, and a copy of it must not be.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}

fn version_of(go_mod: &str) -> Option<&str> {
    let mut lines = go_mod.lines();
    let named = lines.find_map(|line| line.split_once("sigs.k8s.io/gateway-api/conformance "))?;
    named.1.split(' ').next()
}

/// Where the Go modules are, and manifests of our own.
pub(crate) fn source() -> PathBuf {
    workspace::root().join("tests/conformance")
}

const SUITE: &str = "suite";
const CRDS: &str = "crds";
const CERTIFICATE: &str = "cert.crt";
const KEY: &str = "cert.key";
const ISTIO: &str = "istio.io/istio";
const DOWNLOAD: Duration = Duration::from_mins(10);
const BUILD: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_of_the_suite_in_either_form_of_a_requirement() {
        let alone = "module x\n\nrequire sigs.k8s.io/gateway-api/conformance v1.6.1\n";
        let listed = "require (\n\tsigs.k8s.io/gateway-api v1.7.0 // indirect\n\tsigs.k8s.io/gateway-api/conformance v1.6.1 // indirect\n)\n";
        assert_eq!(version_of(alone), Some("v1.6.1"));
        assert_eq!(version_of(listed), Some("v1.6.1"));
        assert_eq!(version_of("module x\n"), None);
    }
}
