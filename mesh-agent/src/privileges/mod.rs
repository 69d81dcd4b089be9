//! What the process may do: capabilities, system calls, and whether its memory can be dumped.
//!
//! Place in the walk: none; `app` gives up what is not needed before the first thread starts, and `status` shows what
//! is left. Must not know: what anything is used for beyond the reasons below, and all other rooms.

mod calls;
mod capabilities;
mod memory;

use caps::Capability;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use self::calls::{CALLS, refuse_calls};

/// A capability that the agent keeps, and what would not work without it.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    capability: Capability,
    why: &'static str,
}

/// What `mesh-agent run` keeps; all else is given up for good.
pub const AGENT: &[Kept] = &[
    Kept {
        capability: Capability::CAP_SYS_ADMIN,
        why: "enters pods' network namespaces for each connection, loads kernel programs that read kernel memory",
    },
    Kept {
        capability: Capability::CAP_NET_ADMIN,
        why: "attaches kernel programs to pods' cgroups and namespaces, ends connections that a policy forbids",
    },
    Kept {
        capability: Capability::CAP_SYS_PTRACE,
        why: "opens the network namespaces of processes of pods that another user runs",
    },
    Kept {
        capability: Capability::CAP_DAC_READ_SEARCH,
        why: "reads manifests, tokens and certificates that belong to other users",
    },
];

/// What `mesh-agent ca` keeps.
pub const AUTHORITY: &[Kept] = &[];

/// What the process is left with, as the kernel tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// Names of the permitted capabilities, sorted.
    pub capabilities: Vec<String>,
    /// Whether no program that it might start can have more.
    pub no_new_privileges: bool,
    /// Whether the kernel refuses system calls that it never makes.
    pub calls_refused: bool,
}

/// Why privileges cannot be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The process lacks what it needs.
    #[error(
        "not allowed to work here: {0} is missing; run as root, in Kubernetes with these under securityContext.capabilities.add"
    )]
    Missing(String),
    /// The kernel did not change a set of capabilities.
    #[error("cannot give up capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    /// The kernel did not change how the process may be looked into, or what programs it starts may do.
    #[error("cannot keep the process's memory to itself")]
    Memory(#[source] Errno),
    /// The kernel did not take the filter of system calls.
    #[error("cannot have system calls refused; --seccomp=off does without")]
    Calls(#[source] seccompiler::Error),
}

/// Gives up all capabilities but `kept`, and keeps the process's memory out of core dumps and debuggers. For the calling
/// thread and those that it starts, so it comes before all other threads.
///
/// Errors: one of `kept` is not there, or the kernel refuses.
pub fn give_up(kept: &[Kept]) -> Result<(), PrivilegeError> {
    memory::keep_secret().map_err(PrivilegeError::Memory)?;
    let wanted = kept.iter().map(|one| one.capability).collect();
    let missing = capabilities::missing(&wanted).map_err(PrivilegeError::Capabilities)?;
    if !missing.is_empty() {
        return Err(PrivilegeError::Missing(missing.join(", ")));
    }
    for one in kept {
        tracing::debug!(capability = %one.capability, why = one.why, "kept");
    }
    capabilities::keep(&wanted).map_err(PrivilegeError::Capabilities)?;
    memory::no_new_privileges().map_err(PrivilegeError::Memory)
}

/// What the calling thread may do now. `calls_refused` is what [`refuse_calls`] came to.
///
/// Errors: the kernel does not say.
pub fn left(calls_refused: bool) -> Result<Privileges, PrivilegeError> {
    Ok(Privileges {
        capabilities: capabilities::permitted().map_err(PrivilegeError::Capabilities)?,
        no_new_privileges: memory::has_no_new_privileges().map_err(PrivilegeError::Memory)?,
        calls_refused,
    })
}
