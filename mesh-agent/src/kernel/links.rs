//! The links of one pod: each keeps one program at one hook for as long as its descriptor is open.
//!
//! Must not know: maps, addresses. Not pinned: links that outlive the agent come with hand-over between agents.

use std::fs::File;

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SkLookup, SockOps};

use crate::kernel::Hook;
use crate::kernel::error::KernelError;
use crate::kernel::loader::{Programs, refused};

/// The hooks of one pod. Dropped, they are unlinked in reverse order.
#[derive(Debug, Default)]
pub struct PodLinks {
    links: Vec<(Hook, FdLink)>,
}

impl PodLinks {
    /// Links every hook of a pod in the order of [`Hook::ALL`]; on an error those already linked are unlinked.
    pub fn attach(programs: &mut Programs, cgroup: &File, netns: &File) -> Result<Self, KernelError> {
        let mut links = Self::default();
        for hook in Hook::ALL {
            links.links.push((hook, attach(programs, hook, cgroup, netns)?));
        }
        Ok(links)
    }

    /// The hooks that are linked.
    pub fn hooks(&self) -> Vec<Hook> {
        self.links.iter().map(|(hook, _)| *hook).collect()
    }
}

impl Drop for PodLinks {
    fn drop(&mut self) {
        // Connects first: nothing may be sent to a listener that is about to lose its other hooks.
        while self.links.pop().is_some() {}
    }
}

fn attach(programs: &mut Programs, hook: Hook, cgroup: &File, netns: &File) -> Result<FdLink, KernelError> {
    match hook {
        Hook::SkLookup => {
            let program: &mut SkLookup = programs.program(hook)?;
            let id = program.attach(netns).map_err(refused("link", hook))?;
            Ok(program.take_link(id).map_err(refused("link", hook))?.into())
        }
        Hook::SockOps => {
            let program: &mut SockOps = programs.program(hook)?;
            let id = program.attach(cgroup, SINGLE).map_err(refused("link", hook))?;
            let link = program.take_link(id).map_err(refused("link", hook))?;
            link.try_into().map_err(|_| no_links(hook))
        }
        Hook::Getpeername4 | Hook::Getpeername6 | Hook::Connect4 | Hook::Connect6 => {
            let program: &mut CgroupSockAddr = programs.program(hook)?;
            let id = program.attach(cgroup, SINGLE).map_err(refused("link", hook))?;
            let link = program.take_link(id).map_err(refused("link", hook))?;
            link.try_into().map_err(|_| no_links(hook))
        }
    }
}

/// Kernels before 5.7 attach without links; preflight has refused them.
fn no_links(hook: Hook) -> KernelError {
    KernelError::Missing {
        missing: format!("no cgroup links for {}", hook.program()),
        cure: "use Linux 5.15 or later",
    }
}

/// A cgroup link is always "multi"; the kernel refuses the flag that says so.
const SINGLE: CgroupAttachMode = CgroupAttachMode::Single;
