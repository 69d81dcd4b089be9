//! Programs of Kubernetes, of its nodes and round it, built from a Go module into the user's cache: one folder for each set
//! of versions.
//!
//! It must not be used where they are not needed: the first build takes a quarter of an hour of two cores.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, TryLockError};
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::process;

use super::go::{Go, source};
use crate::shell::{line, step};
use crate::workspace;

/// A program, which does what it is called as.
struct Binary {
    /// Its package; Go calls it by the last word.
    package: &'static str,
    names: &'static [&'static str],
}

const BINARIES: [Binary; 11] = [
    Binary {
        package: "./cmd/kubernetes",
        names: &[
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ],
    },
    Binary {
        package: "./cmd/containerd",
        names: &["containerd", "ctr"],
    },
    Binary {
        package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        names: &["containerd-shim-runc-v2"],
    },
    Binary {
        package: "github.com/containernetworking/plugins/plugins/main/bridge",
        names: &["bridge"],
    },
    Binary {
        package: "github.com/containernetworking/plugins/plugins/ipam/host-local",
        names: &["host-local"],
    },
    Binary {
        package: "github.com/containernetworking/plugins/plugins/main/loopback",
        names: &["loopback"],
    },
    Binary {
        package: "github.com/containernetworking/plugins/plugins/meta/portmap",
        names: &["portmap"],
    },
    Binary {
        package: "./cmd/coredns",
        names: &["coredns"],
    },
    Binary {
        package: "helm.sh/helm/v3/cmd/helm",
        names: &["helm"],
    },
    Binary {
        package: "istio.io/istio/pkg/test/echo/cmd/server",
        names: &["echo-server"],
    },
    Binary {
        package: "istio.io/istio/pkg/test/echo/cmd/client",
        names: &["echo-client"],
    },
];

/// The directory with these programs, of which those are built that were not built in this version on this machine.
pub(crate) fn programs(names: &[&str]) -> Result<PathBuf> {
    let known = |name: &&str| BINARIES.iter().any(|binary| binary.names.contains(name));
    ensure!(names.iter().all(known), "not all of {names:?} are built here");
    once(&names_beside(names), |aside, missing| {
        let asked_for = || BINARIES.iter().filter(|binary| binary.is_any_of(missing));
        let packages: Vec<_> = asked_for().map(|binary| binary.package).collect();
        Go::new()?.build(&packages, &version_of_kubernetes()?, aside)?;
        asked_for().try_for_each(|binary| binary.call(aside))
    })
}

/// All of them at once: what is compiled for several is not waited for several times.
pub(super) fn all() -> Result<PathBuf> {
    let names = BINARIES.iter().flat_map(|binary| binary.names);
    programs(&names.copied().collect::<Vec<_>>())
}

/// All programs that are one with any of these.
fn names_beside(names: &[&str]) -> Vec<&'static str> {
    let asked_for = BINARIES.iter().filter(|binary| binary.is_any_of(names));
    asked_for.flat_map(|binary| binary.names).copied().collect()
}

impl Binary {
    fn is_any_of(&self, names: &[&str]) -> bool {
        self.names.iter().any(|name| names.contains(name))
    }

    /// Gives the one file that Go made all of its names.
    fn call(&self, dir: &Path) -> Result<()> {
        let file = dir.join(self.package.rsplit('/').next().unwrap_or_default());
        for name in self.names.iter().map(|name| dir.join(name)) {
            if name != file {
                fs::hard_link(&file, &name).with_context(|| format!("make {}", name.display()))?;
            }
        }
        Ok(())
    }
}

/// Where a program is, if it was built in this version on this machine.
pub(crate) fn built(name: &str) -> Result<Option<PathBuf>> {
    let program = folder()?.join(name);
    Ok(program.exists().then_some(program))
}

/// The folder of this version, in which those of `names` are made that are not there: by `make`, in a directory
/// of its own and told which, and put in place when all of them are whole.
pub(super) fn once(names: &[&str], make: impl FnOnce(&Path, &[&str]) -> Result<()>) -> Result<PathBuf> {
    let dir = folder()?;
    let missing = || names.iter().filter(|name| !dir.join(name).exists());
    if missing().next().is_none() {
        return Ok(dir);
    }
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let _lock = lock(&dir)?;
    let missing: Vec<_> = missing().copied().collect();
    if missing.is_empty() {
        return Ok(dir);
    }
    let aside = dir.join("building");
    // Of a build that was interrupted.
    if aside.exists() {
        fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
    }
    fs::create_dir(&aside).with_context(|| format!("make {}", aside.display()))?;
    step(&format!("{} (minutes, once)", missing.join(", ")), || {
        make(&aside, &missing)
    })?;
    for name in missing {
        fs::rename(aside.join(name), dir.join(name)).with_context(|| format!("put {name} in place"))?;
    }
    fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
    Ok(dir)
}

/// Held while something is built in `dir`, or waited for; it ends with its process.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let mut has_said = false;
    let locked = process::wait_until(PATIENCE, || match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => {
            if !has_said {
                has_said = true;
                line(&format!("▶ somebody else builds in {}", dir.display()))?;
            }
            Ok(None)
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    })?;
    locked.with_context(|| format!("somebody else builds in {} for too long", dir.display()))?;
    Ok(file)
}

/// Another version or source of anything is another folder; the name needs no more than to differ.
fn folder() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    for file in SOURCES {
        read(file)?.hash(&mut hasher);
    }
    let name = format!("{}-{:016x}", version_of_kubernetes()?, hasher.finish());
    Ok(workspace::cache("kubernetes")?.join(name))
}

fn version_of_kubernetes() -> Result<String> {
    let version = version_of("k8s.io/kubernetes")?;
    version.context("tests/programs/go.mod names no k8s.io/kubernetes")
}

/// The version of a module that is required, if it is.
pub(super) fn version_of(module: &str) -> Result<Option<String>> {
    Ok(version_in(&read("go.mod")?, module).map(str::to_owned))
}

fn version_in<'m>(go_mod: &'m str, module: &str) -> Option<&'m str> {
    let mut required = go_mod.lines().filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("require ").unwrap_or(line);
        line.strip_prefix(module)?.strip_prefix(' ')
    });
    required.next()?.split(' ').next()
}

fn read(file: &str) -> Result<String> {
    let path = source().join(file);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// What the programs are made of, as far as it is here.
const SOURCES: [&str; 5] = [
    "go.mod",
    "cmd/containerd/main.go",
    "cmd/coredns/main.go",
    "cmd/kubernetes/main.go",
    "conformance/conformance_test.go",
];
const PATIENCE: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_of_a_module_in_either_form_of_a_requirement() {
        let go_mod = "module x\n\nrequire sigs.k8s.io/gateway-api/conformance v1.6.1\n\nrequire (\n\tk8s.io/kubernetes-x v9\n\
                      \tk8s.io/kubernetes v1.36.3 // indirect\n)\n";
        let version = |module| version_in(go_mod, module);
        assert_eq!(version("sigs.k8s.io/gateway-api/conformance"), Some("v1.6.1"));
        assert_eq!(version("k8s.io/kubernetes"), Some("v1.36.3"));
        assert_eq!(version("k8s.io/none"), None);
    }

    #[test]
    fn every_program_of_a_cluster_is_built_here() {
        let known = |name: &str| BINARIES.iter().any(|binary| binary.names.contains(&name));
        let unknown: Vec<_> = mesh_tests::cluster::programs()
            .filter(|name| !known(name))
            .collect();
        assert_eq!(unknown, [""; 0]);
    }

    #[test]
    fn who_asks_for_one_name_gets_all_names_of_its_program() {
        assert_eq!(names_beside(&["ctr"]), ["containerd", "ctr"]);
        assert_eq!(names_beside(&["helm", "kubectl"]).len(), 8);
    }

    #[test]
    fn every_program_of_our_own_is_among_the_sources_that_make_a_version() {
        for binary in &BINARIES {
            let Some(own) = binary.package.strip_prefix("./") else {
                continue;
            };
            let main = format!("{own}/main.go");
            assert!(SOURCES.contains(&main.as_str()), "{main}");
            assert!(source().join(&main).exists(), "{main}");
        }
    }
}
