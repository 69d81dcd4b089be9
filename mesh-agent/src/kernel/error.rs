//! What can go wrong between the agent and the kernel.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;

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
    /// A program was refused, by the verifier or by the hook.
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
    /// The pod has no annotations that say where it lives.
    #[error(
        "nothing says where the pod lives: annotate it with mesh-agent.dev/netns and mesh-agent.dev/cgroup"
    )]
    NoPlacement,
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
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn the_errno_is_spelled_out_once() {
        let io_error = io::Error::from_raw_os_error(1);
        let source = MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error,
        });
        let error = KernelError::Map {
            operation: "put",
            map: "PODS",
            source,
        };
        assert_eq!(
            error.to_string(),
            "put in map PODS: `bpf_map_update_elem` failed: Operation not permitted (os error 1)"
        );
    }
}
