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
}

impl Site {
    /// Opens both. `agent_cgroup` is the agent's own cgroup directory, which must lie outside the pod's.
    pub fn open(placement: &Placement, agent_cgroup: &Path) -> Result<Self, KernelError> {
        let cgroup = File::open(&placement.cgroup).map_err(failed(&placement.cgroup))?;
        let kind = fstatfs(cgroup.as_fd()).map_err(|errno| failed(&placement.cgroup)(errno.into()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(KernelError::NotCgroup2(placement.cgroup.clone()));
        }
        let pod = cgroup.metadata().map_err(failed(&placement.cgroup))?;
        // By inode and not by name: the same hierarchy may be mounted twice.
        for ancestor in agent_cgroup.ancestors() {
            let ancestor = std::fs::metadata(ancestor).map_err(failed(ancestor))?;
            if is_same(&ancestor, &pod) {
                return Err(KernelError::AgentInside(placement.cgroup.clone()));
            }
        }
        let netns = Netns::open(&placement.netns).map_err(failed(&placement.netns))?;
        let own = Netns::current().map_err(failed(Path::new("/proc/self/ns/net")))?;
        if netns.cookie() == own.cookie() {
            return Err(KernelError::NodeNetns(placement.netns.clone()));
        }
        Ok(Self {
            netns: Arc::new(netns),
            cgroup: Some(cgroup),
        })
    }

    /// A pod of a fake kernel: the namespace of the process under a name of its own, and no cgroup.
    pub fn stand_in(name: NetnsCookie) -> Self {
        Self {
            netns: Arc::new(Netns::stand_in(name)),
            cgroup: None,
        }
    }

    /// The open cgroup and namespace; `None` for a stand-in.
    pub fn files(&self) -> Option<(&File, &File)> {
        Some((self.cgroup.as_ref()?, self.netns.file()?))
    }

    /// Whether the paths of `placement` still lead to what was opened.
    pub fn is_at(&self, placement: &Placement) -> bool {
        let Some((cgroup, netns)) = self.files() else {
            return true;
        };
        leads_to(&placement.cgroup, cgroup) && leads_to(&placement.netns, netns)
    }
}

fn leads_to(path: &Path, file: &File) -> bool {
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(now), Ok(then)) => is_same(&now, &then),
        _ => false,
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    |source| KernelError::Open { path, source }
}
