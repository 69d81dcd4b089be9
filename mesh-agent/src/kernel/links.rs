//! The links of one pod, pinned: each keeps one program at one hook for as long as its pin is there.
//!
//! A link that an earlier agent pinned is adopted; when its program is another than ours it is replaced in place, so
//! that no connection meets no program, or two. Must not know: maps, addresses.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SkLookup, SockOps};
use mesh_common::bpf_link;
use nix::errno::Errno;

use crate::kernel::Hook;
use crate::kernel::error::KernelError;
use crate::kernel::loader::{Programs, REFUSER, refused};
use crate::kernel::pins::{failed, remove_dir, remove_pin};

/// The hooks of one pod. Dropped, they stay linked by their pins.
#[derive(Debug)]
pub struct PodLinks {
    dir: PathBuf,
    place: Place,
    links: Vec<Link>,
    /// New connections from outside are refused, whatever the maps say.
    is_refusing: bool,
}

/// Where links lead: inodes, which `fdinfo` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    cgroup: u64,
    netns: u64,
}

/// An open link that is pinned.
#[derive(Debug)]
struct Link {
    hook: Hook,
    fd: OwnedFd,
}

/// What the kernel says of a link in `/proc/self/fdinfo`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct LinkFacts {
    /// Its number on this boot.
    pub(in crate::kernel) id: Option<u32>,
    /// The number of its program.
    pub(in crate::kernel) program: Option<u32>,
    tag: Option<u64>,
    /// Inode of the cgroup or namespace; 0 once it is detached.
    target: Option<u64>,
}

impl PodLinks {
    /// Links every hook of a pod in the order of [`Hook::ALL`] and pins it in `dir`, or adopts what is pinned there.
    /// On an error those that are new are unlinked, and those that were adopted stay: they refuse rather than leak.
    pub fn attach(
        programs: &mut Programs,
        dir: &Path,
        cgroup: &File,
        netns: &File,
    ) -> Result<Self, KernelError> {
        let inode = |file: &File| Ok(file.metadata().map_err(failed("look at", dir))?.ino());
        let mut links = Self {
            dir: dir.to_owned(),
            place: Place {
                cgroup: inode(cgroup)?,
                netns: inode(netns)?,
            },
            links: Vec::new(),
            is_refusing: false,
        };
        let mut fresh = Vec::new();
        for hook in Hook::ALL {
            match links.adopt_or_attach(programs, hook, cgroup, netns) {
                Ok(is_new) => fresh.extend(is_new.then_some(hook)),
                Err(error) => {
                    links.undo(&fresh);
                    return Err(error);
                }
            }
        }
        Ok(links)
    }

    /// The links that are pinned in `dir`, to be removed: nothing of the pod needs to be there any more.
    pub(in crate::kernel) fn pinned(dir: &Path) -> Result<Self, KernelError> {
        let mut links = Self {
            dir: dir.to_owned(),
            place: Place { cgroup: 0, netns: 0 },
            links: Vec::new(),
            is_refusing: false,
        };
        for hook in Hook::ALL {
            let found = open(&links.path(hook))?;
            links.links.extend(found.map(|fd| Link { hook, fd }));
        }
        Ok(links)
    }

    /// The hooks that are linked, as the kernel says.
    pub fn hooks(&self) -> Vec<Hook> {
        let linked = self.links.iter().filter(|link| self.is_linked(link));
        linked.map(|link| link.hook).collect()
    }

    /// Links again what somebody else unlinked, pins again what somebody unpinned, puts our program in the place of any
    /// other, and says which hooks that were.
    pub fn repair(
        &mut self,
        programs: &mut Programs,
        cgroup: &File,
        netns: &File,
    ) -> Result<Vec<Hook>, KernelError> {
        let mut repaired = Vec::new();
        for hook in Hook::ALL {
            let is_linked = |link: &Link| link.hook == hook && self.is_linked(link);
            let is_mended = if let Some(at) = self.links.iter().position(is_linked) {
                self.pin_again(at)? | self.set_program(programs, hook)?
            } else {
                self.links.retain(|link| link.hook != hook);
                self.adopt_or_attach(programs, hook, cgroup, netns)?;
                self.set_program(programs, hook)?;
                true
            };
            repaired.extend(is_mended.then_some(hook));
        }
        Ok(repaired)
    }

    /// Refuses every new connection from outside; the other hooks stay as they are.
    pub(in crate::kernel) fn refuse(&mut self, programs: &mut Programs) -> Result<(), KernelError> {
        self.is_refusing = true;
        self.set_program(programs, Hook::SkLookup).map(drop)
    }

    /// What the kernel says of each link.
    pub(in crate::kernel) fn facts(&self) -> Result<Vec<LinkFacts>, KernelError> {
        let facts = |link: &Link| facts(&link.fd).map_err(failed("look at", &self.path(link.hook)));
        self.links.iter().map(facts).collect()
    }

    /// Unlinks every hook, whoever else holds the links, and removes their pins. Goes on after an error.
    pub fn remove(mut self) -> Result<(), KernelError> {
        let mut outcome = Ok(());
        // Connects first: nothing may be sent to a listener that is about to lose its other hooks.
        while let Some(link) = self.links.pop() {
            outcome = outcome.and(self.unlink(&link));
        }
        outcome.and(remove_dir(&self.dir))
    }

    /// Whether the hook was linked just now, rather than adopted.
    fn adopt_or_attach(
        &mut self,
        programs: &mut Programs,
        hook: Hook,
        cgroup: &File,
        netns: &File,
    ) -> Result<bool, KernelError> {
        let path = self.path(hook);
        if let Some(fd) = open(&path)? {
            let link = Link { hook, fd };
            if self.is_linked(&link) {
                self.links.push(self.up_to_date(programs, link)?);
                return Ok(false);
            }
            // It belongs to a cgroup that is gone, or somebody detached it.
            self.unlink(&link)?;
        }
        fs::create_dir_all(&self.dir).map_err(failed("make", &self.dir))?;
        attach(programs, hook, cgroup, netns)?
            .pin(&path)
            .map_err(|source| KernelError::Pinning {
                path: path.clone(),
                source,
            })?;
        let gone = || failed("open", &path)(io::ErrorKind::NotFound.into());
        let fd = open(&path)?.ok_or_else(gone)?;
        self.links.push(Link { hook, fd });
        Ok(true)
    }

    /// Gives an adopted link our program, unless it has the very same on the very same maps.
    fn up_to_date(&self, programs: &mut Programs, link: Link) -> Result<Link, KernelError> {
        if self.has_program(programs, &link)? && !programs.has_new_maps() {
            return Ok(link);
        }
        self.update(programs, &link)?;
        tracing::info!(link = %self.path(link.hook).display(), "the program of an adopted link was replaced");
        Ok(link)
    }

    /// Gives a link our program where somebody gave it another; whether that was due.
    fn set_program(&self, programs: &mut Programs, hook: Hook) -> Result<bool, KernelError> {
        let Some(link) = self.links.iter().find(|link| link.hook == hook) else {
            return Ok(false);
        };
        if self.has_program(programs, link)? {
            return Ok(false);
        }
        self.update(programs, link).map(|()| true)
    }

    fn has_program(&self, programs: &mut Programs, link: &Link) -> Result<bool, KernelError> {
        let found = facts(&link.fd).map_err(failed("look at", &self.path(link.hook)))?;
        Ok(found.tag == Some(programs.tag(self.program_of(link.hook))?))
    }

    fn update(&self, programs: &mut Programs, link: &Link) -> Result<(), KernelError> {
        let program = programs.descriptor(self.program_of(link.hook))?;
        bpf_link::update(link.fd.as_fd(), program.as_fd()).map_err(|errno| {
            failed("change the program of", &self.path(link.hook))(io::Error::from_raw_os_error(errno))
        })
    }

    fn program_of(&self, hook: Hook) -> &'static str {
        if self.is_refusing && hook == Hook::SkLookup {
            REFUSER
        } else {
            hook.program()
        }
    }

    /// Whether the link's pin was missing.
    fn pin_again(&self, at: usize) -> Result<bool, KernelError> {
        let Some(link) = self.links.get(at) else {
            return Ok(false);
        };
        let path = self.path(link.hook);
        if path.exists() {
            return Ok(false);
        }
        fs::create_dir_all(&self.dir).map_err(failed("make", &self.dir))?;
        bpf_link::pin(link.fd.as_fd(), &c_path(&path)?)
            .map(|()| true)
            .map_err(|errno| failed("pin", &path)(io::Error::from_raw_os_error(errno)))
    }

    fn is_linked(&self, link: &Link) -> bool {
        let wanted = if link.hook.is_of_netns() {
            self.place.netns
        } else {
            self.place.cgroup
        };
        match facts(&link.fd) {
            Ok(facts) => facts.target == Some(wanted),
            Err(error) => {
                tracing::warn!(%error, link = %self.path(link.hook).display(), "cannot look at a link");
                false
            }
        }
    }

    /// Takes back what a failed attach has linked; what cannot be taken back is said.
    fn undo(&mut self, fresh: &[Hook]) {
        while let Some(link) = self.links.pop() {
            if fresh.contains(&link.hook)
                && let Err(error) = self.unlink(&link)
            {
                tracing::warn!(%error, "a link stays behind a failed enrolment");
            }
        }
        // Adopted links keep it.
        if let Err(error) = fs::remove_dir(&self.dir)
            && error.kind() != io::ErrorKind::DirectoryNotEmpty
        {
            tracing::warn!(%error, dir = %self.dir.display(), "a directory stays behind a failed enrolment");
        }
    }

    fn unlink(&self, link: &Link) -> Result<(), KernelError> {
        let path = self.path(link.hook);
        let detached = match bpf_link::detach(link.fd.as_fd()).map_err(Errno::from_raw) {
            // Its namespace or cgroup is gone, and the link with it.
            Ok(()) | Err(Errno::ENOLINK) => Ok(()),
            Err(errno) => Err(failed("detach", &path)(errno.into())),
        };
        detached.and(remove_pin(&path))
    }

    fn path(&self, hook: Hook) -> PathBuf {
        self.dir.join(hook.program())
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
        Hook::Getpeername4
        | Hook::Getpeername6
        | Hook::Recvmsg4
        | Hook::Recvmsg6
        | Hook::Sendmsg4
        | Hook::Sendmsg6
        | Hook::Connect4
        | Hook::Connect6 => {
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

/// The link that is pinned at `path`, if one is.
fn open(path: &Path) -> Result<Option<OwnedFd>, KernelError> {
    match bpf_link::open_pinned(&c_path(path)?).map_err(Errno::from_raw) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(failed("open", path)(errno.into())),
    }
}

fn c_path(path: &Path) -> Result<CString, KernelError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| failed("name", path)(error.into()))
}

fn facts(link: &OwnedFd) -> io::Result<LinkFacts> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    Ok(facts_in(&text))
}

fn facts_in(text: &str) -> LinkFacts {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':').map(str::trim)
    };
    LinkFacts {
        id: value("link_id").and_then(|id| id.parse().ok()),
        program: value("prog_id").and_then(|id| id.parse().ok()),
        tag: value("prog_tag").and_then(|tag| u64::from_str_radix(tag, 16).ok()),
        target: value("cgroup_id")
            .or_else(|| value("netns_ino"))
            .and_then(|inode| inode.parse().ok()),
    }
}

/// A cgroup link is always "multi"; the kernel refuses the flag that says so.
const SINGLE: CgroupAttachMode = CgroupAttachMode::Single;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says_of_a_link() {
        let cgroup = "pos:\t0\nlink_type:\tcgroup\nlink_id:\t9\nprog_tag:\t00a1b2c3d4e5f607\nprog_id:\t31\n\
                      cgroup_id:\t4711\nattach_type:\t10\n";
        let netns = "link_type:\tnetns\nlink_id:\t8\nprog_tag:\t1\nprog_id:\t30\nnetns_ino:\t4026532000\nattach_type:\t36\n";
        assert_eq!(
            facts_in(cgroup),
            LinkFacts {
                id: Some(9),
                program: Some(31),
                tag: Some(0x00a1_b2c3_d4e5_f607),
                target: Some(4711),
            }
        );
        assert_eq!(facts_in(netns).target, Some(4_026_532_000));
        assert_eq!(facts_in("pos:\t0\n"), LinkFacts::default());
    }
}
