//! Where a lab lives on this machine: its name decides every path, namespace and cgroup that it may touch.
//!
//! All other files ask here for names. It must not know what is inside of them.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cgroup;
use crate::input::PodName;
use crate::process;

/// The name of the lab that is used when none is given.
pub const DEFAULT_NAME: &str = "mesh-lab";

/// The places of one lab.
#[derive(Debug, Clone)]
pub struct Site {
    name: String,
    run_dir: PathBuf,
    cgroup: PathBuf,
}

impl Site {
    /// The site of the lab called `name`, which ends in `-lab` and has no other dash, so that no lab's name begins
    /// another's.
    pub fn named(name: &str) -> Result<Self> {
        let stem = name.strip_suffix("-lab").unwrap_or_default();
        ensure!(
            !stem.is_empty() && stem.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()),
            "a lab's name is lower-case letters followed by -lab, such as {DEFAULT_NAME}: {name:?} is not"
        );
        Ok(Self {
            name: name.to_owned(),
            run_dir: Path::new("/run").join(name),
            cgroup: cgroup::mount_point()?.join(name),
        })
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything that the lab writes is below this directory.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The completed manifests, which the agents read and watch.
    pub fn manifests(&self) -> PathBuf {
        self.run_dir.join("manifests")
    }

    /// A place on the same file system as [`Site::manifests`], for files to be renamed into it.
    pub fn staging(&self) -> PathBuf {
        self.run_dir.join("staging")
    }

    /// Output of agents and programs.
    pub fn logs(&self) -> PathBuf {
        self.run_dir.join("logs")
    }

    /// The directory that the agents share as embedded CA.
    pub fn ca_dir(&self) -> PathBuf {
        self.run_dir.join("ca")
    }

    /// The files that policies may name, `NAMESPACE/PATH`: every node has the same ones.
    pub fn tls_files(&self) -> PathBuf {
        self.run_dir.join("tls-files")
    }

    /// The agent that the lab runs: a copy, so that a later build does not change what a running lab is made of.
    pub fn agent_binary(&self) -> PathBuf {
        self.run_dir.join("mesh-agent")
    }

    /// What the agent of a node keeps from run to run.
    pub fn agent_state(&self, node: &str) -> PathBuf {
        self.run_dir.join("agents").join(node)
    }

    /// The BPF file system that the agent of a node sees at `/sys/fs/bpf`.
    pub fn bpf_mount(&self, node: &str) -> PathBuf {
        self.run_dir.join("bpf").join(node)
    }

    /// A directory in which a pod's program may write.
    pub fn scratch(&self, pod: &PodName) -> PathBuf {
        self.run_dir.join("pods").join(pod.underscored())
    }

    /// The lab's own cgroup v2 subtree.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The cgroup of a node's agent.
    pub fn agent_cgroup(&self, node: &str) -> PathBuf {
        self.cgroup.join(node).join("agent")
    }

    /// The cgroup of a pod.
    pub fn pod_cgroup(&self, node: &str, pod: &PodName) -> PathBuf {
        self.cgroup.join(node).join("pods").join(pod.underscored())
    }

    /// The cgroup of tools that look at the lab from outside, such as packet captures.
    pub fn observer_cgroup(&self) -> PathBuf {
        self.cgroup.join("observers")
    }

    /// What every namespace of this lab begins with.
    pub fn netns_prefix(&self) -> String {
        format!("{}-", self.name)
    }

    /// The namespace of a node.
    pub fn node_netns(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// The namespace of a pod.
    pub fn pod_netns(&self, pod: &PodName) -> String {
        format!("{}-{}-{}", self.name, pod.namespace, pod.name)
    }

    /// The namespace of the wire between nodes.
    pub fn fabric_netns(&self) -> String {
        format!("{}-fabric", self.name)
    }

    /// The file that holds a namespace open.
    pub fn netns_path(netns: &str) -> PathBuf {
        Path::new(NETNS_DIR).join(netns)
    }

    /// Takes the lab for one command that changes it; waits while another command holds it.
    pub fn lock(&self) -> Result<SiteLock> {
        // An abstract socket name is exclusive, leaves no file, and goes with the process however it ends.
        let address =
            SocketAddr::from_abstract_name(&self.name).context("the lab's name as a socket address")?;
        let mut is_told = false;
        let locked = process::wait_until(PATIENCE, || match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if !is_told {
                    crate::say(&format!(
                        "another command uses the lab {}: waiting for it to end",
                        self.name
                    ));
                    is_told = true;
                }
                Ok(None)
            }
            Err(error) => Err(error).context("take the lab's name"),
        })?;
        let listener =
            locked.with_context(|| format!("the lab {} is in use by another command", self.name))?;
        Ok(SiteLock(listener))
    }
}

/// The right to change a lab, given back on drop.
#[derive(Debug)]
pub struct SiteLock(#[expect(dead_code, reason = "held for its name, never accepted from")] UnixListener);

const PATIENCE: Duration = Duration::from_mins(10);

/// Where `ip netns` keeps namespaces.
pub const NETNS_DIR: &str = "/run/netns";

impl FromStr for Site {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::named(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_could_begin_one_another() {
        for name in ["lab", "-lab", "a-b-lab", "mesh", "Mesh-lab", "../x-lab", ""] {
            assert!(Site::named(name).is_err(), "{name:?} was taken");
        }
    }
}
