//! Where a pod lives on this machine, held open.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use crate::kernel::error::KernelError;
use crate::mesh::workload::Placement;
use crate::pod::netns::{Netns, NetnsCookie};

/// The open namespace and cgroup of a pod.
#[derive(Debug)]
pub struct Site {
    /// Its network namespace.
    pub netns: Arc<Netns>,
    cgroup: Option<File>,
    lineage: Lineage,
}

/// Names a directory of this machine, however it is reached: its file system and inode.
type Directory = (u64, u64);

/// A cgroup and all above it, itself first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage(pub Vec<Directory>);

impl Lineage {
    /// Whether one of the two groups is the other, or lies inside of it: a process would run the hooks of both.
    fn meets(&self, other: &Self) -> bool {
        let is_in = |inner: &Self, outer: &Self| outer.0.first().is_some_and(|own| inner.0.contains(own));
        is_in(self, other) || is_in(other, self)
    }
}

impl Site {
    /// Opens both. `agent_cgroup` is the agent's own cgroup directory, which must lie outside the pod's.
    pub fn open(placement: &Placement, agent_cgroup: &Path) -> Result<Self, KernelError> {
        let cgroup = File::open(&placement.cgroup).map_err(failed(&placement.cgroup))?;
        let kind = fstatfs(cgroup.as_fd()).map_err(|errno| failed(&placement.cgroup)(errno.into()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(KernelError::NotCgroup2(placement.cgroup.clone()));
        }
        let lineage = lineage(&placement.cgroup)?;
        let pod = cgroup.metadata().map_err(failed(&placement.cgroup))?;
        // By inode and not by name: the same hierarchy may be mounted twice.
        if self::lineage(agent_cgroup)?.0.contains(&directory(&pod)) {
            return Err(KernelError::AgentInside(placement.cgroup.clone()));
        }
        let netns = Netns::open(&placement.netns).map_err(failed(&placement.netns))?;
        let own = Netns::current().map_err(failed(Path::new("/proc/self/ns/net")))?;
        if netns.cookie() == own.cookie() {
            return Err(KernelError::NodeNetns(placement.netns.clone()));
        }
        Ok(Self {
            netns: Arc::new(netns),
            cgroup: Some(cgroup),
            lineage,
        })
    }

    /// A pod of a fake kernel: the namespace of the process under a name of its own, and a cgroup in name only.
    pub fn stand_in(name: NetnsCookie, lineage: Lineage) -> Self {
        Self {
            netns: Arc::new(Netns::stand_in(name)),
            cgroup: None,
            lineage,
        }
    }

    /// Whether both are the same network namespace.
    pub fn shares_netns_with(&self, other: &Self) -> bool {
        self.netns.cookie() == other.netns.cookie()
    }

    /// Whether both are the same cgroup, or one lies inside of the other.
    pub fn shares_cgroup_with(&self, other: &Self) -> bool {
        self.lineage.meets(&other.lineage)
    }

    /// The open cgroup and namespace; `None` for a stand-in.
    pub fn files(&self) -> Option<(&File, &File)> {
        Some((self.cgroup.as_ref()?, self.netns.file()?))
    }

    /// Whether `path` still leads to the cgroup that was opened.
    pub fn has_cgroup_at(&self, path: &Path) -> bool {
        self.files().is_none_or(|(cgroup, _)| leads_to(path, cgroup))
    }

    /// Whether `path` still leads to the namespace that was opened.
    pub fn has_netns_at(&self, path: &Path) -> bool {
        self.files().is_none_or(|(_, netns)| leads_to(path, netns))
    }
}

fn leads_to(path: &Path, file: &File) -> bool {
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(now), Ok(then)) => is_same(&now, &then),
        _ => false,
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    directory(one) == directory(other)
}

fn directory(found: &Metadata) -> Directory {
    (found.dev(), found.ino())
}

fn lineage(cgroup: &Path) -> Result<Lineage, KernelError> {
    // Only without links do the names above lead to what is above.
    let cgroup = cgroup.canonicalize().map_err(failed(cgroup))?;
    let all = cgroup.ancestors().map(|ancestor| {
        let found = std::fs::metadata(ancestor).map_err(failed(ancestor))?;
        Ok(directory(&found))
    });
    all.collect::<Result<_, _>>().map(Lineage)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    |source| KernelError::Open { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(inodes: &[u64]) -> Lineage {
        Lineage(inodes.iter().map(|inode| (1, *inode)).collect())
    }

    #[test]
    fn cgroups_meet_when_they_are_one_or_nested_and_not_as_neighbours() {
        let (root, pod, child) = (line(&[1]), line(&[2, 1]), line(&[3, 2, 1]));
        let neighbour = line(&[4, 1]);
        for (one, other, meet) in [
            (&pod, &pod, true),
            (&pod, &child, true),
            (&root, &child, true),
            (&pod, &neighbour, false),
            (&child, &neighbour, false),
        ] {
            assert_eq!(
                (one.meets(other), other.meets(one)),
                (meet, meet),
                "{one:?} {other:?}"
            );
        }
        assert!(!line(&[]).meets(&pod));
    }
}
