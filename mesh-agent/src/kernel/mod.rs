//! The kernel's mirror of the mesh: which pods are hooked, and what the hooks remember.
//!
//! Place in the walk: none; it makes connections come to the walk at all. The only room that knows aya. Must not
//! know: protocols, policies, routes, how bytes move.

pub mod budget;
pub mod capacity;
pub mod direct;
mod dns;
pub mod ebpf;
pub mod enrolment;
pub mod error;
mod exceptions;
pub mod fake;
pub mod flow_table;
pub mod links;
pub mod loader;
pub mod node_addrs;
pub mod pins;
pub mod placement;
mod pod_maps;
pub mod preflight;
pub mod pulse;
pub mod site;
pub mod splice;
pub mod status;
pub mod uninstall;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::Serialize;

use crate::kernel::direct::DirectTable;
use crate::kernel::error::KernelError;
use crate::kernel::site::Site;
use crate::kernel::splice::legs::Legs;
use crate::mesh::exclusions::Exclusions;
use crate::mesh::workload::{FailMode, Placement};
use crate::pod::flows::FlowTable;
use crate::pod::netns::NetnsCookie;

/// Hooks pods up. Implemented over eBPF by [`ebpf::EbpfKernel`], in memory by [`fake::FakeKernel`].
///
/// Calls are synchronous and made by the enrolment loop only, some system calls each. Dropping the kernel unhooks
/// nobody: what is hooked stays, and the next agent puts it again.
pub trait Kernel: Send + fmt::Debug {
    /// What the hooks remember of flows; shared with the data path.
    fn flows(&self) -> Arc<dyn FlowTable>;

    /// What the hooks are told of direct flows, and what they tell.
    fn direct(&self) -> Arc<dyn DirectTable>;

    /// The agent that hooked the pods before has ended: nothing that it filed is needed any more.
    fn alone(&mut self);

    /// Attaches what splices, which is the node's and not a pod's; whether legs may be spliced too, and why not. After
    /// [`Kernel::alone`].
    ///
    /// Errors: this kernel cannot splice, and why.
    fn splice(&mut self) -> Result<Result<Arc<Legs>, KernelError>, KernelError>;

    /// How the hooks learn that the agent lives.
    fn pulse(&self) -> Arc<dyn Pulse>;

    /// Opens the namespace and the cgroup at `placement`.
    fn open(&self, placement: &Placement) -> Result<Site, KernelError>;

    /// Hooks the pod at `site` up, in the order that never leaks: maps, `sk_lookup`, then the cgroup hooks.
    /// `outbound_port` and `inbound` are its open listeners. What another agent left of the pod is adopted: its connections
    /// go to these from now on. On an error nothing new is left behind. Putting a site again gives it other listeners, and ends what [`Kernel::refuse`] began.
    fn put(
        &mut self,
        site: &Site,
        fail_mode: FailMode,
        outbound_port: u16,
        inbound: &[(IpAddr, BorrowedFd<'_>)],
    ) -> Result<(), KernelError>;

    /// Changes what becomes of the connections of a pod, which was put, while the agent is dead.
    fn set_fail_mode(&mut self, netns: NetnsCookie, fail_mode: FailMode) -> Result<(), KernelError>;

    /// Refuses every new connection of a pod, which was put: its hooks stay, and nothing is steered to a listener. For
    /// a pod whose address means another by now. Doing it twice is no error.
    fn refuse(&mut self, netns: NetnsCookie) -> Result<(), KernelError>;

    /// Asks the kernel which hooks of the pod at `site`, which was put, are linked and pinned, and whether the maps say
    /// of it what they should; mends what is wrong, and says which parts those were. `inbound` as it was put.
    fn repair(&mut self, site: &Site, inbound: &[(IpAddr, BorrowedFd<'_>)])
    -> Result<Vec<Part>, KernelError>;

    /// Makes what the hooks let past for a pod with these addresses equal to `wanted`; connections that exist stay
    /// as they are. After an error a part of it may hold; calling again is safe.
    fn except(
        &mut self,
        netns: NetnsCookie,
        addrs: &[IpAddr],
        wanted: &Exceptions,
    ) -> Result<(), KernelError>;

    /// Says whether the DNS of a pod, which was put, goes to its in-pod DNS listeners. Which resolvers they stand for stays
    /// known until the pod is removed.
    fn capture_dns(&mut self, netns: NetnsCookie, is_captured: bool) -> Result<(), KernelError>;

    /// Compares what the hooks let past with what was told last for every pod, mends it, and says for which pods that
    /// was due.
    fn repair_exceptions(&mut self) -> Result<Vec<(NetnsCookie, Part)>, KernelError>;

    /// Whose connections count as probes of the node's kubelet; what was told before is forgotten.
    fn know_node(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<(), KernelError>;

    /// Unhooks what was put, in reverse order: first nothing may go direct to it or from it any more, last nothing is
    /// excluded; removing what is not there is no error.
    /// What an address means to another pod by now stays.
    fn remove(&mut self, netns: NetnsCookie) -> Result<(), KernelError>;

    /// Pods that an earlier agent hooked up and this one has neither put nor removed.
    fn orphans(&self) -> Result<Vec<Orphan>, KernelError>;

    /// Every pod that was put, with the hooks that are linked, as the kernel says.
    fn entries(&self) -> Vec<Entry>;

    /// What the hooks counted since they were loaded, by name.
    fn counters(&self) -> Result<Vec<(&'static str, u64)>, KernelError>;

    /// Entries for which each map had no room, by its name: those of hooks since the map was made, those of this agent
    /// since it started.
    fn overflows(&self) -> Result<Vec<(&'static str, u64)>, KernelError>;
}

/// How the hooks learn that the agent lives: while its last beat is older than three seconds they take it for dead.
pub trait Pulse: Send + Sync + fmt::Debug {
    /// Says that the agent lives. One map operation, which does not block.
    fn beat(&self) -> Result<(), KernelError>;

    /// Says that it does not serve any more.
    fn stop(&self) -> Result<(), KernelError>;
}

/// What the hooks let past the agent for one pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exceptions {
    /// What its annotations exclude.
    pub exclusions: Exclusions,
    /// The ports whose application its own node reaches directly.
    pub probe_ports: BTreeSet<u16>,
}

/// A part of a pod's capture that the audit compares with what should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// A link or its pin.
    Hook(Hook),
    /// What the map of this name says of the pod.
    Entry(&'static str),
}

impl Part {
    /// As logs and metrics show it: the hook, or the map.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hook(hook) => hook.name(),
            Self::Entry(map) => map,
        }
    }
}

/// A pod that is hooked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its namespace.
    pub netns: NetnsCookie,
    /// The hooks that are linked.
    pub hooks: Vec<Hook>,
    /// Connections that went past a dead agent since the pod was first hooked.
    pub bypassed: u64,
}

/// A pod that an earlier agent left hooked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its namespace.
    pub netns: NetnsCookie,
    /// Its addresses; none when they are not known any more.
    pub addrs: Vec<IpAddr>,
}

/// A hook of the kernel that a program is linked to for each pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// New connections for the namespace.
    SkLookup,
    /// TCP events of the cgroup's sockets.
    SockOps,
    /// The peer that IPv4 sockets of the cgroup see.
    Getpeername4,
    /// The peer that IPv6 sockets of the cgroup see.
    Getpeername6,
    /// Whom the cgroup's IPv4 sockets hear from.
    Recvmsg4,
    /// Whom the cgroup's IPv6 sockets hear from.
    Recvmsg6,
    /// Datagrams of the cgroup to IPv4 addresses.
    Sendmsg4,
    /// Datagrams of the cgroup to IPv6 addresses.
    Sendmsg6,
    /// Connects of the cgroup's IPv4 sockets.
    Connect4,
    /// Connects of the cgroup's IPv6 sockets.
    Connect6,
}

impl Hook {
    /// Every hook, in the order in which a pod is hooked up: connects last, when all that they lead to is there.
    pub const ALL: [Self; 10] = [
        Self::SkLookup,
        Self::SockOps,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// Whether its program is linked to the namespace; the others are linked to the cgroup.
    pub fn is_of_netns(self) -> bool {
        self == Self::SkLookup
    }

    /// As `status`, logs and metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SkLookup => "sk_lookup",
            Self::SockOps => "sock_ops",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
        }
    }

    /// Name of its program in the object file.
    pub fn program(self) -> &'static str {
        match self {
            Self::SkLookup => "mesh_sk_lookup",
            Self::SockOps => "mesh_sock_ops",
            Self::Getpeername4 => "mesh_peername4",
            Self::Getpeername6 => "mesh_peername6",
            Self::Recvmsg4 => "mesh_recvmsg4",
            Self::Recvmsg6 => "mesh_recvmsg6",
            Self::Sendmsg4 => "mesh_sendmsg4",
            Self::Sendmsg6 => "mesh_sendmsg6",
            Self::Connect4 => "mesh_connect4",
            Self::Connect6 => "mesh_connect6",
        }
    }
}
