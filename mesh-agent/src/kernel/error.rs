//! What can go wrong between the agent and the kernel.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::sys::SyscallError;
use mesh_common::map::{MapName, Size};
use nix::errno::Errno;
use nix::sys::utsname::uname;

use crate::pod::netns::NetnsCookie;

/// Why the kernel programs cannot be used, or a pod cannot be hooked up.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// This machine or process lacks something that every pod needs; `cure` says what to do.
    #[error("{missing}: {cure}")]
    Missing {
        /// What is missing.
        missing: String,
        /// What to do about it.
        cure: &'static str,
    },
    /// The agent was built without its kernel programs.
    #[error("built without eBPF programs (MESH_SKIP_EBPF): build the agent again without that variable")]
    NotBuiltIn,
    /// The embedded object does not load.
    #[error("load the eBPF object: {}", spelled(.0))]
    Object(#[source] EbpfError),
    /// The embedded object lacks a program or map of that name: agent and programs differ in version.
    #[error("the eBPF object has no {0}")]
    NoSuchPart(&'static str),
    /// The verifier refused a program. The whole log was written at debug level.
    #[error("Linux {release} refuses {program}: {io_error}; its verifier ends with: {last}")]
    Refused {
        /// Which program.
        program: &'static str,
        /// `uname -r`.
        release: String,
        /// The last lines of the verifier's log, in one.
        last: String,
        /// What the system call said.
        #[source]
        io_error: io::Error,
    },
    /// A program cannot be used, or the hook refused it.
    #[error("{operation} {program}: {}", spelled(source))]
    Program {
        /// What was tried.
        operation: &'static str,
        /// Which program.
        program: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// A map operation failed.
    #[error("{operation} in map {map}: {}", spelled(source))]
    Map {
        /// What was tried.
        operation: &'static str,
        /// Which map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A map has no room for one more entry.
    #[error("the map {} is full: {cure}", map.name())]
    Full {
        /// Which map.
        map: MapName,
        /// What to do about it.
        cure: &'static str,
    },
    /// Something about a pin failed.
    #[error("{operation} {path}: {source}", path = path.display())]
    Pin {
        /// What was tried.
        operation: &'static str,
        /// Which pin or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A link cannot be pinned.
    #[error("pin {path}: {}", spelled(source), path = path.display())]
    Pinning {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: PinError,
    },
    /// The addresses of the node cannot be read.
    #[error("read the addresses of the node: {0}")]
    Interfaces(#[source] io::Error),
    /// The pod has no annotations that say where it lives, and there is no tree of cgroups to look in.
    #[error(
        "nothing says where the pod lives: annotate it with mesh-agent.dev/netns and mesh-agent.dev/cgroup"
    )]
    NoPlacement,
    /// Kubelet's tree has no group for the pod.
    #[error(
        "no cgroup of pod uid {uid} below {root}: kubelet has not made it yet, or cgroup_root is not the root of its tree",
        root = root.display()
    )]
    NoCgroup {
        /// The uid, as kubelet has it.
        uid: String,
        /// Where it was looked for.
        root: PathBuf,
    },
    /// The pod's group is there, and nobody in it who has its namespace.
    #[error(
        "no process of this machine runs in {cgroup} yet: its network namespace is not known; in a container the agent needs hostPID",
        cgroup = .0.display()
    )]
    NoProcess(PathBuf),
    /// The kernel does not say what a pod has open.
    #[error("count the connections that the pod has open: {0}")]
    Connections(#[source] io::Error),
    /// What was opened belongs to another by now.
    #[error("the pod moved while it was being enrolled")]
    Moved,
    /// The pod has no address yet.
    #[error("the pod has no address yet; it is enrolled when status.podIPs has one")]
    NoAddress,
    /// The namespace or cgroup cannot be opened: wrong, not there yet, or gone.
    #[error("open {path}: {source}", path = path.display())]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The listeners inside the pod cannot be opened.
    #[error("inside the pod: {0}")]
    Listen(#[source] io::Error),
    /// The path is not a cgroup v2 directory.
    #[error("{path} is no cgroup v2 directory: set mesh-agent.dev/cgroup to one", path = .0.display())]
    NotCgroup2(PathBuf),
    /// Hooked there, the agent's own connects would be captured again.
    #[error("the agent's own cgroup is inside {path}: start the agent in a cgroup outside every pod", path = .0.display())]
    AgentInside(PathBuf),
    /// A pod of the host network has no address or namespace of its own to hook.
    #[error("{path} is the node's own network namespace: say hostNetwork: true, which is never captured, or correct mesh-agent.dev/netns", path = .0.display())]
    NodeNetns(PathBuf),
    /// Another pod lives in that namespace: the hooks could not tell the two apart.
    #[error(
        "shares its network namespace with pod {0}, which stays enrolled: give each pod a namespace of its own"
    )]
    SharedNetns(String),
    /// A process would run the hooks of two pods.
    #[error(
        "its cgroup is that of pod {0} or lies in it or around it; that pod stays enrolled: give each pod a cgroup of its own"
    )]
    SharedCgroup(String),
    /// Another pod has taken over the address: the elder's connections are refused.
    #[error(
        "pod {by} has its address {addr} now: all its connections are refused until one of the two is gone or has another address"
    )]
    Superseded {
        /// Which address.
        addr: IpAddr,
        /// `namespace/name` of the pod that has it now.
        by: String,
    },
    /// The namespace or cgroup was there, and is not any more.
    #[error("its network namespace or cgroup is gone; it is enrolled again when both are back")]
    Vanished,
    /// The site was opened by another kernel than it was given to.
    #[error("namespace {} was not opened by this kernel", .0.0)]
    ForeignSite(NetnsCookie),
    /// What a fake kernel was told to answer.
    #[error("{0}")]
    Told(String),
}

impl KernelError {
    /// Whether this only says that the pod, or a part of it, is not on this machine (any more): it may come by itself.
    pub(in crate::kernel) fn is_absence(&self) -> bool {
        match self {
            Self::NoCgroup { .. } | Self::NoProcess(_) | Self::Moved | Self::NoAddress | Self::Vanished => {
                true
            }
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            // The address is in the facts before its interface has it.
            Self::Listen(source) => source.kind() == io::ErrorKind::AddrNotAvailable,
            Self::Missing { .. }
            | Self::NotBuiltIn
            | Self::Object(_)
            | Self::NoSuchPart(_)
            | Self::Refused { .. }
            | Self::Program { .. }
            | Self::Map { .. }
            | Self::Full { .. }
            | Self::Pin { .. }
            | Self::Pinning { .. }
            | Self::Interfaces(_)
            | Self::NoPlacement
            | Self::Connections(_)
            | Self::NotCgroup2(_)
            | Self::AgentInside(_)
            | Self::NodeNetns(_)
            | Self::SharedNetns(_)
            | Self::SharedCgroup(_)
            | Self::Superseded { .. }
            | Self::ForeignSite(_)
            | Self::Told(_) => false,
        }
    }
}

/// Names the map and the operation in an error of aya's, and tells a map that is full from all else.
pub(in crate::kernel) fn map_failed(
    operation: &'static str,
    map: &'static str,
) -> impl FnOnce(MapError) -> KernelError {
    move |source| match MapName::named(map).filter(|_| is_full(&source)) {
        Some(map) => KernelError::Full {
            map,
            cure: cure_of(map),
        },
        None => KernelError::Map {
            operation,
            map,
            source,
        },
    }
}

/// Whether the kernel had no room for an entry. A trie says `ENOSPC` where a hash map says `E2BIG`; entries that are
/// made one by one may find no memory.
pub(in crate::kernel) fn is_full(error: &MapError) -> bool {
    let MapError::SyscallError(SyscallError { io_error, .. }) = error else {
        return false;
    };
    let errno = io_error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::E2BIG | Errno::ENOSPC | Errno::ENOMEM))
}

/// What an operator can do when a map is full.
fn cure_of(map: MapName) -> &'static str {
    match map.size() {
        Size::PerPod(_) => "raise max_pods",
        Size::PerFlows(_) => "raise max_flows",
        Size::Fixed => "its size is fixed",
    }
}

/// Puts the end of the verifier's log into one line, and the whole of it into the log.
pub(in crate::kernel) fn refused(program: &'static str, source: ProgramError) -> KernelError {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = source
    else {
        return KernelError::Program {
            operation: "load",
            program,
            source,
        };
    };
    let log = verifier_log.to_string();
    tracing::debug!(program, log, "the verifier refused a program");
    let release = uname().map_or_else(
        |errno| format!("({errno})"),
        |name| name.release().to_string_lossy().into_owned(),
    );
    KernelError::Refused {
        program,
        release,
        last: last_lines(&log),
        io_error,
    }
}

/// What the verifier said at last: the instruction and the reason. Its statistics say nothing to this.
fn last_lines(log: &str) -> String {
    let said = |line: &&str| !line.is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word));
    let mut lines: Vec<_> = log.lines().map(str::trim).filter(said).rev().take(3).collect();
    lines.reverse();
    if lines.is_empty() {
        return "nothing".to_owned();
    }
    lines.join(" | ")
}

const STATISTICS: [&str; 3] = ["processed ", "verification time", "stack depth"];

/// An error with its causes in one line: aya keeps the errno in the source of the source.
pub(in crate::kernel) fn spelled(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // A transparent error and its source say the same.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use aya_obj::VerifierLog;

    use super::*;

    fn told(map: &'static str, errno: Errno) -> KernelError {
        let source = MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: errno.into(),
        });
        map_failed("put", map)(source)
    }

    #[test]
    fn the_errno_is_spelled_out_once() {
        assert_eq!(
            told("PODS", Errno::EPERM).to_string(),
            "put in map PODS: `bpf_map_update_elem` failed: Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn a_full_map_names_the_setting_to_raise() {
        for (map, errno, line) in [
            (
                "POD_ADDRS",
                Errno::E2BIG,
                "the map POD_ADDRS is full: raise max_pods",
            ),
            (
                "DIRECT",
                Errno::E2BIG,
                "the map DIRECT is full: its size is fixed",
            ),
            (
                "TRUE_PEER",
                Errno::E2BIG,
                "the map TRUE_PEER is full: raise max_flows",
            ),
            (
                "EXCLUDED_BLOCKS",
                Errno::ENOSPC,
                "the map EXCLUDED_BLOCKS is full: raise max_pods",
            ),
        ] {
            assert_eq!(told(map, errno).to_string(), line);
        }
    }

    #[test]
    fn a_refusal_of_the_verifier_is_one_line_that_ends_with_its_reason() {
        let log = "func#0 @0\n0: R1=ctx() R10=fp0\n; let x = 1;\n5: (61) r2 = *(u32 *)(r1 +300)\n\
                   invalid bpf_context access off=300 size=4\n\
                   processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n";
        let error = refused(
            "mesh_connect4",
            ProgramError::LoadError {
                io_error: Errno::EACCES.into(),
                verifier_log: VerifierLog::new(log.to_owned()),
            },
        );
        let line = error.to_string();
        assert!(line.starts_with("Linux ") && !line.contains('\n'), "{line}");
        let end = "refuses mesh_connect4: Permission denied (os error 13); its verifier ends with: ; let x = 1; | \
                   5: (61) r2 = *(u32 *)(r1 +300) | invalid bpf_context access off=300 size=4";
        assert!(line.ends_with(end), "{line}");
    }
}
