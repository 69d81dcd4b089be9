//! The network: namespaces for nodes and pods, a bridge on each node, a wire between nodes, both IP families.
//!
//! ```text
//!   pod eth0 ── pN ┐                               ┌ pN ── eth0 pod
//!   pod eth0 ── pN ┴ br0  node  eth0 ── wire ── eth0  node  br0 ┴ pN ── eth0 pod
//! ```
//! Nothing is joined to the machine's own network. Service addresses lead nowhere: only the mesh makes them work.
//! It must not know of the mesh.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::addresses::{fabric_ipv4, fabric_ipv6, node_ipv4, node_ipv6};
use crate::kubelet::PodPlan;
use crate::netns;
use crate::process;
use crate::site::{NETNS_DIR, Site};

/// A node as the network sees it.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Its number, from 1.
    pub index: u8,
}

/// Makes the wire, the nodes and the pods.
pub fn create(site: &Site, nodes: &[NodePlan], pods: &[&PodPlan]) -> Result<()> {
    let fabric = site.fabric_netns();
    add_namespace(&fabric)?;
    ip(&fabric, "link add br0 type bridge\nlink set br0 up\n")?;
    for node in nodes {
        add_node(site, &fabric, node, nodes)?;
        let own = pods.iter().filter(|pod| pod.node == node.name);
        for (port, pod) in own.enumerate() {
            add_pod(site, node, port, pod)?;
        }
    }
    Ok(())
}

/// The namespaces that belong to this lab and exist.
pub fn namespaces(site: &Site) -> Result<Vec<String>> {
    let prefix = site.netns_prefix();
    let entries = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {NETNS_DIR}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("list {NETNS_DIR}"))?.file_name();
        names.extend(
            name.to_str()
                .filter(|name| name.starts_with(&prefix))
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}

/// Removes every namespace of this lab, and with them all that is in them.
pub fn remove(site: &Site) -> Result<()> {
    for netns in namespaces(site)? {
        delete_namespace(&netns)?;
    }
    Ok(())
}

/// Removes the name of a namespace.
pub fn delete_namespace(netns: &str) -> Result<()> {
    run("ip", &["netns", "delete", netns])
}

/// Removes the directory that `ip netns` made, if it is empty; for those who saw that it was not there before.
pub fn remove_netns_dir() -> Result<()> {
    let is_empty = fs::read_dir(NETNS_DIR).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        run("umount", &[NETNS_DIR])?;
        fs::remove_dir(NETNS_DIR).with_context(|| format!("remove {NETNS_DIR}"))?;
    }
    Ok(())
}

fn add_node(site: &Site, fabric: &str, node: &NodePlan, all: &[NodePlan]) -> Result<()> {
    let netns = site.node_netns(&node.name);
    add_namespace(&netns)?;
    let index = node.index;
    ip(
        fabric,
        &format!(
            "link add n{index} type veth peer name eth0 netns {netns}\n\
             link set n{index} master br0\nlink set n{index} up\n"
        ),
    )?;
    let mut script = format!(
        "link add br0 type bridge\nlink set br0 up\nlink set eth0 up\n\
         addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
         addr add {}/24 dev br0\naddr add {}/64 dev br0 nodad\n\
         route add unreachable default metric 4000\nroute add unreachable ::/0 metric 4000\n",
        fabric_ipv4(index),
        fabric_ipv6(index),
        node_ipv4(index, 1),
        node_ipv6(index, 1),
    );
    for other in all.iter().filter(|other| other.index != index) {
        let (to4, to6) = (node_ipv4(other.index, 0), node_ipv6(other.index, 0));
        let (via4, via6) = (fabric_ipv4(other.index), fabric_ipv6(other.index));
        script.push_str(&routes(to4, via4, to6, via6));
    }
    ip(&netns, &script)?;
    set(
        &netns,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ],
    )
}

fn routes(to4: Ipv4Addr, via4: Ipv4Addr, to6: Ipv6Addr, via6: Ipv6Addr) -> String {
    format!("route add {to4}/24 via {via4}\nroute add {to6}/64 via {via6}\n")
}

/// Joins a pod to its node; `port` tells its wire from the others of the node.
pub fn add_pod(site: &Site, node: &NodePlan, port: usize, pod: &PodPlan) -> Result<()> {
    add_namespace(&pod.netns)?;
    ip(
        &site.node_netns(&node.name),
        &format!(
            "link add p{port} type veth peer name eth0 netns {}\nlink set p{port} master br0\nlink set p{port} up\n",
            pod.netns
        ),
    )?;
    let ipv4 = format!(
        "addr add {}/24 dev eth0\nroute add default via {}\n",
        pod.ipv4,
        node_ipv4(node.index, 1),
    );
    ip(
        &pod.netns,
        &format!(
            "link set eth0 up\naddr add {}/64 dev eth0 nodad\nroute add ::/0 via {}\n{}",
            pod.ipv6,
            node_ipv6(node.index, 1),
            if pod.is_ipv6_only { "" } else { &ipv4 },
        ),
    )
}

/// A namespace with loopback up and settings that do not depend on the machine's own.
pub(crate) fn add_namespace(netns: &str) -> Result<()> {
    run("ip", &["netns", "add", netns])?;
    set(
        netns,
        &[
            // Machines may default to one that is not in every kernel or paces small flows.
            ("net/ipv4/tcp_congestion_control", "cubic"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            // Addresses count at once, not after a second of duplicate detection.
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
        ],
    )?;
    ip(netns, "link set lo up\n")
}

/// Writes settings below `/proc/sys`, which shows those of the caller's namespace.
pub fn set(netns: &str, settings: &[(&str, &str)]) -> Result<()> {
    netns::inside(&Site::netns_path(netns), || {
        for (name, value) in settings {
            let path = Path::new("/proc/sys").join(name);
            match fs::write(&path, value) {
                Ok(()) => {}
                // Outside of the first namespace only those that the kernel gives to everybody may be chosen.
                Err(error)
                    if name.ends_with("congestion_control")
                        && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
                {
                    fs::write(&path, "reno").with_context(|| format!("set {name} to reno"))?;
                }
                Err(error) => return Err(error).with_context(|| format!("set {name} to {value} in {netns}")),
            }
        }
        Ok(())
    })
}

/// Runs `ip` commands inside a namespace, all in one process.
pub(crate) fn ip(netns: &str, script: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ip: the package iproute2 is needed")?;
    let mut stdin = child.stdin.take().context("standard input of ip")?;
    stdin.write_all(script.as_bytes()).context("write to ip")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for ip")?;
    if !output.status.success() {
        bail!(
            "ip in {netns}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = process::run(Command::new(program).args(args), Duration::from_secs(20))?;
    ensure!(
        output.is_success(),
        "{program} {}: {}",
        args.join(" "),
        output.stderr.trim()
    );
    Ok(())
}
