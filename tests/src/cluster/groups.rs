//! Cgroups of a cluster in every hierarchy of the machine: v2, and v1 where that is mounted beside it.
//!
//! The kubelet and runc look at all of them. It must not know what is put there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cgroup;
use crate::site::Site;

/// Makes `path`, which begins with the site's name, in every hierarchy.
pub(super) fn create(path: &str) -> Result<()> {
    let below = path.trim_start_matches('/');
    for hierarchy in hierarchies()? {
        cgroup::create(&hierarchy.at.join(below))?;
        if hierarchy.is_v2 {
            delegate(&hierarchy.at, Path::new(below))?;
        }
    }
    Ok(())
}

/// Ends all processes of the site, and removes its groups.
pub(super) fn remove(site: &Site) -> Result<()> {
    cgroup::kill(site.cgroup())?;
    roots(site)?.iter().try_for_each(|root| cgroup::remove(root))
}

/// The site's groups that exist.
pub(super) fn remains(site: &Site) -> Result<Vec<PathBuf>> {
    Ok(roots(site)?.into_iter().filter(|root| root.exists()).collect())
}

fn roots(site: &Site) -> Result<Vec<PathBuf>> {
    let found = hierarchies()?;
    Ok(found
        .into_iter()
        .map(|hierarchy| hierarchy.at.join(site.name()))
        .collect())
}

/// Lets groups below `path` have the controllers that the machine has: in v2 each group must pass them on.
fn delegate(root: &Path, path: &Path) -> Result<()> {
    let mut group = root.to_owned();
    for part in path {
        let offered = group.join("cgroup.controllers");
        let offered = fs::read_to_string(&offered).with_context(|| offered.display().to_string())?;
        let wanted: Vec<_> = offered
            .split_whitespace()
            .map(|name| format!("+{name}"))
            .collect();
        let control = group.join("cgroup.subtree_control");
        fs::write(&control, wanted.join(" ")).with_context(|| control.display().to_string())?;
        group.push(part);
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    at: PathBuf,
    is_v2: bool,
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    Ok(hierarchies_in(&mounts))
}

fn hierarchies_in(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        let at = PathBuf::from(at);
        if matches!(kind, "cgroup" | "cgroup2") && found.iter().all(|known| known.at != at) {
            found.push(Hierarchy {
                at,
                is_v2: kind == "cgroup2",
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_hierarchies_of_both_versions_once_each() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found: Vec<_> = hierarchies_in(mounts)
            .into_iter()
            .map(|hierarchy| (hierarchy.at.display().to_string(), hierarchy.is_v2))
            .collect();
        let expected = [("/sys/fs/cgroup/cpu", false), ("/sys/fs/cgroup/unified", true)];
        assert_eq!(found, expected.map(|(at, is_v2)| (at.to_owned(), is_v2)));
    }
}
