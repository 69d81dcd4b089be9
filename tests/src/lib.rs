//! The lab: a small Kubernetes made of network namespaces and cgroups, with real eBPF in the running kernel.
//!
//! It stands outside the mesh and plays everything round it: the node, the kubelet, the endpoint controller, the
//! name service and the application. It must not know how the agent works, only its command line, its pages and
//! what can be seen on sockets and on the wire: the suites would otherwise check the code against itself.
//!
//! | file | what it is |
//! |---|---|
//! | `site` | where a lab lives on this machine: run directory, cgroup, namespace names |
//! | `input` | `lab.yaml` and the manifests, as the user wrote them |
//! | `manifest`, `kubelet`, `nodes`, `addresses`, `endpoints`, `hosts` | the manifests, as a cluster would have completed them (pure) |
//! | `cgroup`, `cpu`, `network`, `netns`, `sandbox`, `process` | what the kernel gives |
//! | `agent`, `metrics`, `http` | one agent a node, and its pages |
//! | `state`, `lab`, `running` | up, down, and what can be done in between; also after a crash |
//! | `kubernetes` | a real API server, for what asks one |
//! | `cluster` | that, and two real nodes with containerd and kubelet |
//! | `pcap`, `wire` | packets between nodes, captured and judged |
//! | `suites` | the claims, run by `cargo xtask test` |
#![forbid(unsafe_code)]

pub mod addresses;
pub mod agent;
pub mod authority;
pub mod cgroup;
pub mod cluster;
pub mod cpu;
pub mod endpoints;
#[cfg(test)]
mod features;
pub mod guest;
pub mod hosts;
pub mod http;
pub mod input;
pub mod interrupt;
pub mod kubelet;
pub mod kubernetes;
pub mod lab;
pub mod manifest;
pub mod metrics;
pub mod netns;
pub mod network;
pub mod nodes;
pub mod pcap;
pub mod process;
pub mod row;
pub mod running;
pub mod sandbox;
pub mod site;
pub mod spire;
pub mod state;
pub mod suites;
pub mod wire;

use std::io::Write as _;

/// Tells the person at the terminal something that has no other way out.
pub fn say(line: &str) {
    // Nobody is left to tell when standard error itself is gone.
    let _told = writeln!(std::io::stderr(), "{line}");
}
