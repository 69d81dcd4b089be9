//! The chained CNI plugin: a pod's sandbox is ready only once the agent says that its traffic is captured.
//!
//! Place in the walk: before it. The runtime runs `mesh-agent cni` for each sandbox, which asks the agent over a socket;
//! the agent keeps that plugin in the node's first list. Must not know: how a pod is enrolled, kernel programs, facts.

pub mod conflist;
pub mod install;
pub mod netconf;
pub mod plugin;
pub mod wire;

/// Name of the plugin's program and `type` of its entry.
pub const PLUGIN: &str = "mesh-agent-cni";
/// Name of the agent's socket in its state directory.
pub const SOCKET: &str = "cni.sock";
/// Name of the file in the agent's state directory that lists the namespaces whose pods take part.
pub const NAMESPACES: &str = "namespaces.json";
