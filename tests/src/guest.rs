//! A pod that comes into a running lab and goes again, as pods of a cluster do: not in the lab's notes.
//!
//! It must not know what the mesh makes of it. Taking the lab down finds its namespace and cgroup by their names.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Child;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::addresses::{node_ipv4, node_ipv6};
use crate::input::PodName;
use crate::kubelet::{CGROUP_ANNOTATION, NETNS_ANNOTATION, PodPlan};
use crate::network::{self, NodePlan};
use crate::process::Output;
use crate::running::{EXEC_LIMIT, Running};
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
    manner: Manner,
    programs: Vec<Child>,
}

/// How a guest comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Its manifest says where it lives.
    Declared,
    /// As a kubelet makes it: its cgroup is named by its uid, and its manifest knows nothing of this machine.
    AsByKubelet,
}

impl Guest {
    /// Makes namespace and cgroup of a pod with the host number `host`, from 200 on: the lab's own stay below.
    pub fn arrive(lab: &Running, host: u8) -> Result<Self> {
        Self::come(lab, host, Manner::Declared)
    }

    /// The same as a kubelet and a runtime would: found by its uid only.
    pub fn arrive_as_by_kubelet(lab: &Running, host: u8) -> Result<Self> {
        Self::come(lab, host, Manner::AsByKubelet)
    }

    fn come(lab: &Running, host: u8, manner: Manner) -> Result<Self> {
        let name: PodName = format!("shop/guest-{host}").parse()?;
        let node = NodePlan {
            name: "node-a".to_owned(),
            index: 1,
        };
        let uid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let uid = uid.trim().to_owned();
        let cgroup = match manner {
            Manner::Declared => lab.site.pod_cgroup(&node.name, &name),
            Manner::AsByKubelet => {
                let besteffort = lab.site.cgroup().join(&node.name).join("kubepods/besteffort");
                besteffort.join(format!("pod{uid}"))
            }
        };
        let guest = Self {
            ipv4: node_ipv4(node.index, host),
            ipv6: node_ipv6(node.index, host),
            netns: lab.site.pod_netns(&name),
            cgroup,
            uid,
            manner,
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

    /// `metadata.name`.
    pub fn name(&self) -> &PodName {
        &self.name
    }

    /// Path of its network namespace.
    pub fn netns(&self) -> PathBuf {
        Site::netns_path(&self.netns)
    }

    /// Tells the agents of it, as a kubelet does before its sandbox has a network: without an address.
    pub fn declare_without_address(&self, lab: &Running) -> Result<()> {
        let mut pod = self.object();
        if let Some(fields) = pod.as_object_mut() {
            fields.insert("status".to_owned(), json!({ "phase": "Pending" }));
        }
        lab.put_manifest(&self.file(), &pod.to_string())
    }

    /// Tells the agents of it.
    pub fn declare(&self, lab: &Running) -> Result<()> {
        lab.put_manifest(&self.file(), &self.object().to_string())
    }

    fn object(&self) -> Value {
        let place = match self.manner {
            Manner::Declared => json!({
                NETNS_ANNOTATION: self.netns(),
                CGROUP_ANNOTATION: self.cgroup,
            }),
            Manner::AsByKubelet => json!({}),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name.name,
                "namespace": self.name.namespace,
                "uid": self.uid,
                "annotations": place,
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
        })
    }

    /// Takes it out of what the agents read.
    pub fn withdraw(&self, lab: &Running) -> Result<()> {
        lab.remove_manifest(&self.file())
    }

    /// Where its programs run.
    fn place(&self, lab: &Running) -> Place {
        Place {
            cgroup: self.container(),
            netns: self.netns(),
            mounts_of: None,
            cwd: lab.state.input.clone(),
        }
    }

    /// Runs a program in its container to its end.
    pub fn run(&self, lab: &Running, program: &[&str]) -> Result<Output> {
        let program: Vec<_> = program.iter().map(|&word| word.to_owned()).collect();
        process::run(&mut self.place(lab).command(&program)?, EXEC_LIMIT)
    }

    /// Starts a program in its container; what it says is in the file.
    pub fn start(&mut self, lab: &Running, program: &[&str]) -> Result<PathBuf> {
        let place = self.place(lab);
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
