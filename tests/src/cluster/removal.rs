//! A cluster removed, whoever made it and however far that went.
//!
//! It needs the site's name only, not what the cluster noted of itself.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::groups;
use crate::network;
use crate::site::{Site, SiteLock};

/// Takes down a cluster, whoever made it; nothing happens where there is none.
pub fn down(site: &Site) -> Result<()> {
    let _lock: SiteLock = site.lock()?;
    down_locked(site)
}

pub(super) fn down_locked(site: &Site) -> Result<()> {
    // Mounts of the nodes, and the pods' namespaces, end with the last process that is in them.
    groups::remove(site)?;
    network::remove(site)?;
    if site.run_dir().join(MADE_NETNS_DIR).exists() {
        network::remove_netns_dir()?;
    }
    if site.run_dir().exists() {
        fs::remove_dir_all(site.run_dir()).with_context(|| format!("remove {}", site.run_dir().display()))?;
    }
    let left = remains(site)?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(())
}

/// What is left of a cluster on this machine: nothing, after `down`.
pub fn remains(site: &Site) -> Result<Vec<String>> {
    let mut left: Vec<_> = network::namespaces(site)?
        .iter()
        .map(|name| format!("namespace {name}"))
        .collect();
    left.extend(
        groups::remains(site)?
            .iter()
            .map(|group| group.display().to_string()),
    );
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let dir = site.run_dir().display().to_string();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&dir))
            .map(|line| format!("mount {line}")),
    );
    if site.run_dir().exists() {
        left.push(dir);
    }
    Ok(left)
}

/// Stands in the cluster's directory where `/run/netns` was not there before.
pub(super) const MADE_NETNS_DIR: &str = "made-netns-dir";
