//! etcd and kube-apiserver, built from their Go modules into the user's cache: one folder a version.
//!
//! It must not be used where they are not needed: the first build takes ten minutes of two cores.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::PROGRAMS;

use crate::shell::{command, find, show, step};
use crate::workspace;

/// The directory with the programs, which are built if this version was not built on this machine before.
pub(crate) fn programs() -> Result<PathBuf> {
    let source = workspace::root().join("tests/control-plane");
    let go_mod = fs::read_to_string(source.join("go.mod")).context("read tests/control-plane/go.mod")?;
    let version = version_of(&go_mod).context("tests/control-plane/go.mod names no k8s.io/kubernetes")?;
    // Another version of anything is another folder; the name needs no more than to differ.
    let mut hasher = DefaultHasher::new();
    go_mod.hash(&mut hasher);
    let cache = cache()?;
    let dir = cache.join(format!("{version}-{:016x}", hasher.finish()));
    if PROGRAMS.iter().all(|name| dir.join(name).exists()) {
        return Ok(dir);
    }
    ensure!(
        find("go").is_some(),
        "kube-apiserver is built with Go 1.26 or later, and there is no `go`: install it (https://go.dev/dl)"
    );
    let aside = cache.join(format!("{version}-{}", std::process::id()));
    fs::create_dir_all(&aside).with_context(|| format!("make {}", aside.display()))?;
    let build = || {
        let linked = format!("-s -w -X k8s.io/component-base/version.gitVersion={version}");
        let mut go = command(
            "nice",
            &[
                "go",
                "build",
                "-trimpath",
                "-buildvcs=false",
                "-ldflags",
                &linked,
                "-o",
            ],
        );
        go.arg(&aside).args(PROGRAMS.map(|name| format!("./cmd/{name}")));
        show(go.current_dir(&source).env("CGO_ENABLED", "0"), LIMIT)
    };
    step(
        &format!("kube-apiserver {version} (ten minutes or more, once)"),
        build,
    )?;
    // The folder appears whole; who was first wins, and both built the same.
    if fs::rename(&aside, &dir).is_err() {
        ensure!(dir.exists(), "cannot name {} {}", aside.display(), dir.display());
        fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
    }
    Ok(dir)
}

fn version_of(go_mod: &str) -> Option<&str> {
    let mut words = go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))?
        .split(' ');
    words.next()
}

/// Not the build directory: that is removed more often than Kubernetes has a new version.
fn cache() -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("node-mesh/control-plane"))
}

const LIMIT: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_of_kubernetes_among_the_requirements() {
        let go_mod = "require (\n\tk8s.io/component-base v0.36.3\n\tk8s.io/kubernetes v1.36.3\n)\n";
        assert_eq!(version_of(go_mod), Some("v1.36.3"));
        assert_eq!(version_of("module x\n"), None);
    }
}
