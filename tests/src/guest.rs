//! A pod that comes into a running lab and goes again, as pods of a cluster do: not in the lab's notes.
//!
//! It must not know what the mesh makes of it. Taking the lab down finds its namespace and cgroup by their names.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Child;

use anyhow::{Context, Result};
use serde_json::json;

use crate::addresses::{node_ipv4, node_ipv6};
use crate::input::PodName;
use crate::kubelet::{CGROUP_ANNOTATION, NETNS_ANNOTATION, PodPlan};
use crate::network::{self, NodePlan};
use crate::running::Running;
use crate::sandbox::{self, Place};
use crate::site::Site;
use crate::{cgroup, process};

/// A pod of the first node, in a meshed namespace.
#[derive(Debug)]
pub struct Guest {
    name: PodName,
    node: NodePlan,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    netns: String,
    cgroup: PathBuf,
    uid: String,
    programs: Vec<Child>,
}

impl Guest {
    /// Makes namespace and cgroup of a pod with the host number `host`, from 200 on: the lab's own stay below.
    pub fn arrive(lab: &Running, host: u8) -> Result<Self> {
        let name: PodName = format!("shop/guest-{host}").parse()?;
        let node = NodePlan {
            name: "node-a".to_owned(),
            index: 1,
        };
        let guest = Self {
            ipv4: node_ipv4(node.index, host),
            ipv6: node_ipv6(node.index, host),
            netns: lab.site.pod_netns(&name),
            cgroup: lab.site.pod_cgroup(&node.name, &name),
            uid: fs::read_to_string("/proc/sys/kernel/random/uuid")?
                .trim()
                .to_owned(),
            programs: Vec::new(),
            name,
            node,
        };
        let plan = PodPlan {
            is_ipv6_only: false,
            name: guest.name.clone(),
            node: guest.node.name.clone(),
            ipv4: guest.ipv4,
            ipv6: guest.ipv6,
            uid: guest.uid.clone(),
            labels: std::collections::BTreeMap::new(),
            ports: std::collections::BTreeMap::new(),
            is_ready: true,
            netns: guest.netns.clone(),
            cgroup: guest.cgroup.clone(),
        };
        cgroup::create(&guest.container())?;
        network::add_pod(&lab.site, &guest.node, usize::from(host), &plan)?;
        Ok(guest)
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its own cgroup.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup.clone()
    }

    /// The cgroup of its container, below its own.
    pub fn container(&self) -> PathBuf {
        self.cgroup.join("container")
    }

    /// Tells the agents of it.
    pub fn declare(&self, lab: &Running) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name.name,
                "namespace": self.name.namespace,
                "uid": self.uid,
                "annotations": {
                    NETNS_ANNOTATION: Site::netns_path(&self.netns),
                    CGROUP_ANNOTATION: self.cgroup,
                },
            },
            "spec": {
                "nodeName": self.node.name,
                "serviceAccountName": "client",
                "containers": [{ "name": "guest", "image": "local" }],
            },
            "status": {
                "phase": "Running",
                "podIP": self.ipv4,
                "podIPs": [{ "ip": self.ipv4 }, { "ip": self.ipv6 }],
            },
        });
        lab.put_manifest(&self.file(), &pod.to_string())
    }

    /// Takes it out of what the agents read.
    pub fn withdraw(&self, lab: &Running) -> Result<()> {
        lab.remove_manifest(&self.file())
    }

    /// Starts a program in its container; what it says is in the file.
    pub fn start(&mut self, lab: &Running, program: &[&str]) -> Result<PathBuf> {
        let place = Place {
            cgroup: self.container(),
            netns: Site::netns_path(&self.netns),
            mounts_of: None,
            cwd: lab.state.input.clone(),
        };
        let program: Vec<_> = program.iter().map(|&word| word.to_owned()).collect();
        let number = self.programs.len();
        let log = lab.site.logs().join(format!("{}-{number}.log", self.name.name));
        // A guest of this name may have been here before.
        fs::write(&log, "").with_context(|| log.display().to_string())?;
        self.programs
            .push(sandbox::start(place.command(&program)?, &log, &log)?);
        Ok(log)
    }

    /// Ends all its programs, as the end of a container does.
    pub fn kill(&mut self) -> Result<()> {
        cgroup::kill(&self.cgroup)?;
        self.programs
            .drain(..)
            .try_for_each(|mut program| process::reap(&mut program))
    }

    /// Removes its cgroup; its programs must have ended.
    pub fn remove_cgroup(&self) -> Result<()> {
        cgroup::remove(&self.cgroup)
    }

    /// Removes the name of its namespace; the namespace goes with the last who uses it.
    pub fn remove_netns(&self) -> Result<()> {
        network::delete_namespace(&self.netns)
    }

    fn file(&self) -> String {
        format!("{}.yaml", self.name.name)
    }
}
