//! The network of a cluster: one wire with the control plane and the nodes on it, and each node's pods behind it.
//!
//! ```text
//!   control plane  192.168.66.1 ─┐ br0 of the fabric
//!   node-a   eth0  192.168.66.11 ┤     cni0 10.244.1.1/24 ── pods, by the CNI plugin
//!   node-b   eth0  192.168.66.12 ┘     cni0 10.244.2.1/24 ── pods
//! ```
//! Nothing is joined to the machine's own network. It must not know what runs on the nodes.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::network::{add_namespace, ip, set};
use crate::site::Site;

/// Where the API server listens for the nodes.
pub(super) const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(192, 168, 66, 1);

/// Everybody on the wire.
pub(super) const BROADCAST: Ipv4Addr = Ipv4Addr::new(192, 168, 66, 255);

/// A node as the network sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wired {
    /// Its name.
    pub(super) name: &'static str,
    /// Its number, from 1.
    pub(super) index: u8,
}

impl Wired {
    /// Its address on the wire between the nodes.
    pub(super) fn addr(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 66, 10 + self.index)
    }

    /// The block of its pods, without the length of 24.
    pub(super) fn pods(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.index, 0)
    }
}

/// Makes the wire and the nodes' namespaces.
pub(super) fn create(site: &Site, nodes: &[Wired]) -> Result<()> {
    let fabric = site.fabric_netns();
    add_namespace(&fabric)?;
    ip(
        &fabric,
        &format!("link add br0 type bridge\naddr add {CONTROL_PLANE}/24 dev br0\nlink set br0 up\n"),
    )?;
    for node in nodes {
        let netns = site.node_netns(node.name);
        add_namespace(&netns)?;
        let index = node.index;
        ip(
            &fabric,
            &format!(
                "link add n{index} type veth peer name eth0 netns {netns}\n\
                 link set n{index} master br0\nlink set n{index} up\nroute add {}/24 via {}\n",
                node.pods(),
                node.addr(),
            ),
        )?;
        let mut routes = String::new();
        for other in nodes.iter().filter(|other| other.index != index) {
            writeln!(routes, "route add {}/24 via {}", other.pods(), other.addr()).context("write routes")?;
        }
        ip(
            &netns,
            &format!(
                "link set eth0 up\naddr add {}/24 dev eth0\nroute add default via {CONTROL_PLANE}\n{routes}",
                node.addr(),
            ),
        )?;
        set(
            &netns,
            &[
                ("net/ipv4/ip_forward", "1"),
                // What pods of one node say to a Service's address comes back through the node, not past it.
                ("net/bridge/bridge-nf-call-iptables", "1"),
            ],
        )?;
    }
    Ok(())
}
