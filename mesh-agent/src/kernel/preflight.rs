//! What the machine must have before the programs are loaded, each lack in one line that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported, is_program_supported};

use crate::kernel::error::{KernelError, spelled};
use crate::kernel::splice::offsets::Offsets;

/// What was found out about this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// The agent's own cgroup v2 directory.
    pub agent_cgroup: PathBuf,
    /// Whether a refused `connect` can tell why (`bpf_set_retval`, Linux 5.18).
    pub can_set_retval: bool,
    /// Where the kernel keeps what the splice reads; the reason where it does not say.
    pub offsets: Result<Offsets, String>,
}

impl Preflight {
    /// Looks at this machine and process.
    pub fn run() -> Result<Self, KernelError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(missing("not root", "run the agent as root"));
        }
        let agent_cgroup = agent_cgroup()?;
        probe_programs()?;
        let can_set_retval = has_helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)?;
        if !has_helper(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie)? {
            return Err(missing(
                "kernel too old, no bpf_get_netns_cookie in sock_ops",
                "use Linux 5.15 or later",
            ));
        }
        Ok(Self {
            agent_cgroup,
            can_set_retval,
            offsets: Offsets::of_this_kernel(),
        })
    }
}

fn probe_programs() -> Result<(), KernelError> {
    for (kind, name) in [
        (ProgramType::CgroupSockAddr, "cgroup socket address"),
        (ProgramType::SockOps, "sock_ops"),
        (ProgramType::SkLookup, "sk_lookup"),
    ] {
        if !is_program_supported(kind).map_err(|error| no_bpf(&error))? {
            let what = format!("the kernel has no {name} programs");
            return Err(missing(
                &what,
                "use Linux 5.15 or later with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
            ));
        }
    }
    Ok(())
}

fn has_helper(kind: ProgramType, helper: BpfHelper) -> Result<bool, KernelError> {
    is_helper_supported(kind, helper).map_err(|error| no_bpf(&error))
}

fn no_bpf(error: &ProgramError) -> KernelError {
    missing(
        &format!("the kernel refuses bpf(): {}", spelled(error)),
        "give the agent CAP_BPF and CAP_NET_ADMIN, and a kernel with CONFIG_BPF_SYSCALL that is not locked down",
    )
}

/// The directory of the process's own cgroup v2, wherever the hierarchy is mounted.
fn agent_cgroup() -> Result<PathBuf, KernelError> {
    let mounts = read("/proc/self/mounts")?;
    let own = read("/proc/self/cgroup")?;
    let mount = cgroup2_mounts(&mounts).next().ok_or_else(no_cgroup2)?;
    let own = own_cgroup(&own).ok_or_else(|| {
        missing(
            "the agent is in no cgroup v2",
            "boot with cgroup v2 enabled (hybrid or unified)",
        )
    })?;
    Ok(mount.join(own))
}

fn read(path: &str) -> Result<String, KernelError> {
    std::fs::read_to_string(path).map_err(|source: io::Error| KernelError::Open {
        path: path.into(),
        source,
    })
}

/// Where cgroup v2 is mounted, the last of several: the own one of a container comes before what is mounted into it.
pub(in crate::kernel) fn last_cgroup2_mount() -> Result<PathBuf, KernelError> {
    let mounts = read("/proc/self/mounts")?;
    cgroup2_mounts(&mounts).last().ok_or_else(no_cgroup2)
}

/// The mount points of cgroup v2 in `/proc/self/mounts`; octal escapes stand for blanks (fstab(5)).
fn cgroup2_mounts(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t")))
    })
}

/// The unified entry of `/proc/self/cgroup`, relative to the mount point.
fn own_cgroup(cgroups: &str) -> Option<&Path> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(path.trim_end_matches(" (deleted)")))
}

fn no_cgroup2() -> KernelError {
    missing(
        "no cgroup v2",
        "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified",
    )
}

fn missing(missing: &str, cure: &'static str) -> KernelError {
    KernelError::Missing {
        missing: missing.to_owned(),
        cure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_on_unified_and_hybrid_hosts() {
        for (mounts, point) in [
            ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", Some("/sys/fs/cgroup")),
            (
                "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                 cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
                Some("/sys/fs/cgroup/unified"),
            ),
            ("none /mnt/c\\040g cgroup2 rw 0 0\n", Some("/mnt/c g")),
            ("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\nodd\n", None),
        ] {
            assert_eq!(
                cgroup2_mounts(mounts).next(),
                point.map(PathBuf::from),
                "{mounts}"
            );
        }
    }

    #[test]
    fn of_a_containers_own_tree_and_the_machines_the_latter_is_last() {
        let mounts = "cgroup /sys/fs/cgroup cgroup2 ro 0 0\nsysfs /x sysfs ro 0 0\ncgroup2 /host/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mounts(mounts).last(), Some(PathBuf::from("/host/cgroup")));
    }

    #[test]
    fn finds_the_own_cgroup_below_the_mount() {
        for (text, path) in [
            ("9:name=systemd:/\n0::/mesh/agent\n", Some("mesh/agent")),
            ("0::/\n", Some("")),
            ("0::/gone (deleted)\n", Some("gone")),
            ("4:memory:/x\n", None),
        ] {
            assert_eq!(own_cgroup(text), path.map(Path::new), "{text}");
        }
    }
}
