//! Finds where a pod lives on this machine: its cgroup by its uid, its network namespace by a process in it.
//!
//! Place in the walk: none; `enrolment` asks it for pods whose manifest does not say where they live. Must not know:
//! hooks, listeners, what becomes of the pod.

pub mod announced;
pub mod connections;
mod processes;
mod tree;

use std::path::Path;

use serde::Serialize;

use self::announced::Announced;
use self::processes::Inhabitant;
use self::tree::Tree;
use crate::kernel::error::KernelError;
use crate::kernel::preflight::last_cgroup2_mount;
use crate::kernel::site::Site;
use crate::mesh::workload::{Placement, Workload};

/// Knows where pods live: by their annotations, by what the CNI plugin announced, by the tree of kubelet's cgroups.
#[derive(Debug, Default)]
pub struct Locator {
    /// What the CNI plugin said of pods that begin.
    pub announced: Announced,
    tree: Option<Tree>,
    trusts_annotations: bool,
}

/// How the mesh learned where a pod lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Learned {
    /// Its annotations say so.
    Declared,
    /// The CNI plugin said so before its first process began.
    Announced,
    /// It was found when it ran already: what it had open before is not the mesh's.
    Found,
}

/// Where a pod lives, and how to see whether it still does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    learned: Learned,
    placement: Placement,
    /// Who lives in its namespace, where no name leads to that.
    inhabitant: Option<Inhabitant>,
}

impl Locator {
    /// Looks below `cgroup_root`, or where cgroup v2 is mounted last: in a container that is the machine's tree, which
    /// was mounted after the container's own.
    ///
    /// Errors: no cgroup v2 is mounted.
    pub fn below(cgroup_root: Option<&Path>) -> Result<Self, KernelError> {
        let root = cgroup_root.map_or_else(last_cgroup2_mount, |root| Ok(root.to_owned()))?;
        Ok(Self {
            tree: Some(Tree::below(root)),
            ..Self::default()
        })
    }

    /// Also believes the annotations of pods that an API server gave: whoever may make a pod could place it where
    /// another one lives.
    #[must_use]
    pub fn trusting_annotations(mut self, trusts_annotations: bool) -> Self {
        self.trusts_annotations = trusts_annotations;
        self
    }

    /// Where `workload` lives. Some file system look-ups; kubelet's cgroups are listed only for a pod that was not there
    /// the last time.
    ///
    /// Errors: nothing of it is there (yet).
    pub fn locate(&mut self, workload: &Workload) -> Result<Whereabouts, KernelError> {
        if let Some(placement) = self.declared(workload) {
            return Ok(Whereabouts {
                learned: Learned::Declared,
                placement: placement.clone(),
                inhabitant: None,
            });
        }
        let tree = self.tree.as_mut().ok_or(KernelError::NoPlacement)?;
        let cgroup = tree.find(&workload.kubelet_uid())?;
        if let Some(announcement) = self.announced.of(&workload.kubelet_uid()) {
            let netns = announcement.netns.clone();
            return Ok(Whereabouts {
                learned: Learned::Announced,
                placement: Placement { netns, cgroup },
                inhabitant: None,
            });
        }
        let inhabitant = Inhabitant::of(&cgroup)?;
        Ok(Whereabouts {
            learned: Learned::Found,
            placement: Placement {
                netns: inhabitant.netns(),
                cgroup,
            },
            inhabitant: Some(inhabitant),
        })
    }

    /// What the pod's annotations say, if they are believed. Who writes files of this machine may place pods anywhere.
    pub fn declared<'w>(&self, workload: &'w Workload) -> Option<&'w Placement> {
        let is_believed = self.trusts_annotations || &*workload.meta.origin != FROM_API_SERVER;
        workload.placement.as_deref().filter(|_| is_believed)
    }
}

impl Whereabouts {
    /// How it was learned.
    pub fn learned(&self) -> Learned {
        self.learned
    }

    /// The paths.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Whether what was opened is the pod's: a process that ended in between may have given its number to another.
    pub fn leads_to(&self, site: &Site) -> bool {
        let is_inhabited = |inhabitant: &Inhabitant| inhabitant.is_of(&self.placement.cgroup);
        self.is_at(site) && self.inhabitant.as_ref().is_none_or(is_inhabited)
    }

    /// Whether the pod still lives at `site`. Containers come and go; the pod stays while its cgroup does, unless its
    /// processes have another namespace by now. Some system calls.
    pub fn is_still(&mut self, site: &Site) -> bool {
        let Some(inhabitant) = &mut self.inhabitant else {
            return self.is_at(site);
        };
        if !site.has_cgroup_at(&self.placement.cgroup) {
            return false;
        }
        if site.has_netns_at(&inhabitant.netns()) {
            return true;
        }
        match Inhabitant::of(&self.placement.cgroup) {
            Ok(successor) if site.has_netns_at(&successor.netns()) => {
                self.placement.netns = successor.netns();
                *inhabitant = successor;
                true
            }
            // Between two containers nobody is there; in the end the cgroup goes too.
            Err(_) => true,
            // A sandbox that was made anew, unless that process ended just now.
            Ok(successor) => !successor.is_of(&self.placement.cgroup),
        }
    }

    fn is_at(&self, site: &Site) -> bool {
        site.has_cgroup_at(&self.placement.cgroup) && site.has_netns_at(&self.placement.netns)
    }
}

/// `metadata` of objects that an API server gave has this origin.
const FROM_API_SERVER: &str = "api";

#[cfg(test)]
mod tests;
