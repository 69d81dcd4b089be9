//! Programs of Kubernetes, of its nodes and round it, built from their Go modules into the user's cache: one folder for
//! each set of versions.
//!
//! It must not be used where they are not needed: the first build takes ten minutes of two cores and more.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::shell::{command, find, show, step};
use crate::workspace;

/// A Go module of this repository, whose `go.mod` and `go.sum` pin what is built.
struct Module {
    dir: &'static str,
    /// Packages by the name of their program, those that are needed first before those that take long.
    packages: &'static [(&'static str, &'static str)],
}

const MODULES: [Module; 2] = [
    Module {
        dir: "tests/control-plane",
        packages: &[
            ("etcd", "./cmd/etcd"),
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
        ],
    },
    Module {
        dir: "tests/node-programs",
        packages: &[
            (
                "bridge",
                "github.com/containernetworking/plugins/plugins/main/bridge",
            ),
            (
                "host-local",
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
            ),
            (
                "loopback",
                "github.com/containernetworking/plugins/plugins/main/loopback",
            ),
            (
                "portmap",
                "github.com/containernetworking/plugins/plugins/meta/portmap",
            ),
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            (
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
            ("coredns", "./cmd/coredns"),
            ("helm", "helm.sh/helm/v3/cmd/helm"),
        ],
    },
];

/// The directory with these programs, of which those are built that were not built in this version on this machine.
pub(crate) fn programs(names: &[&str]) -> Result<PathBuf> {
    let version = version()?;
    let dir = cache("kubernetes")?.join(folder(&version)?);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let known = |name: &&str| {
        MODULES
            .iter()
            .flat_map(|module| module.packages)
            .any(|(known, _)| known == name)
    };
    ensure!(names.iter().all(known), "not all of {names:?} are built here");
    for module in &MODULES {
        let missing: Vec<_> = module
            .packages
            .iter()
            .filter(|(name, _)| names.contains(name) && !dir.join(name).exists())
            .collect();
        if !missing.is_empty() {
            build(module, &missing, &version, &dir)?;
        }
    }
    Ok(dir)
}

fn build(module: &Module, missing: &[&(&str, &str)], version: &str, dir: &Path) -> Result<()> {
    ensure!(
        find("go").is_some(),
        "Kubernetes is built with Go 1.26 or later, and there is no `go`: install it (https://go.dev/dl)"
    );
    let aside = dir.join(format!(".{}", std::process::id()));
    fs::create_dir_all(&aside).with_context(|| format!("make {}", aside.display()))?;
    let linked = format!("-s -w -X k8s.io/component-base/version.gitVersion={version}");
    let arguments = [
        "go",
        "build",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        &linked,
        "-o",
    ];
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    step(
        &format!(
            "{} of {} (ten minutes and more, once)",
            names.join(", "),
            module.dir
        ),
        || {
            let mut go = command("nice", &arguments);
            go.arg(&aside).args(missing.iter().map(|(_, package)| package));
            let source = workspace::root().join(module.dir);
            show(go.current_dir(source).env("CGO_ENABLED", "0"), LIMIT)
        },
    )?;
    // Each appears whole; who was first wins nothing, since both built the same.
    for name in names {
        fs::rename(aside.join(name), dir.join(name)).with_context(|| format!("put {name} in place"))?;
    }
    fs::remove_dir(&aside).with_context(|| format!("remove {}", aside.display()))
}

/// Another version of anything is another folder; the name needs no more than to differ.
fn folder(version: &str) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for module in &MODULES {
        go_mod(module)?.hash(&mut hasher);
    }
    Ok(format!("{version}-{:016x}", hasher.finish()))
}

fn version() -> Result<String> {
    let [kubernetes, _] = &MODULES;
    let version = version_of(&go_mod(kubernetes)?).map(str::to_owned);
    version.with_context(|| format!("{}/go.mod names no k8s.io/kubernetes", kubernetes.dir))
}

fn go_mod(module: &Module) -> Result<String> {
    let path = workspace::root().join(module.dir).join("go.mod");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn version_of(go_mod: &str) -> Option<&str> {
    let mut words = go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))?
        .split(' ');
    words.next()
}

/// A folder for what is built of others. Not the build directory: that is removed more often than Kubernetes has a new version.
pub(super) fn cache(of: &str) -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("node-mesh")
        .join(of))
}

const LIMIT: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_of_kubernetes_among_the_requirements() {
        let go_mod =
            "require (\n\tk8s.io/component-base v0.36.3\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\n";
        assert_eq!(version_of(go_mod), Some("v1.36.3"));
        assert_eq!(version_of("module x\n"), None);
    }

    #[test]
    fn every_program_of_a_cluster_is_built_here() {
        let known: Vec<_> = MODULES
            .iter()
            .flat_map(|module| module.packages)
            .map(|(name, _)| *name)
            .collect();
        let unknown: Vec<_> = mesh_tests::cluster::programs()
            .filter(|name| !known.contains(name))
            .collect();
        assert_eq!(unknown, [""; 0]);
    }
}
