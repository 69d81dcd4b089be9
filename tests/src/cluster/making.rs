//! A cluster made: the wire, the control plane, the nodes, the first images and the cluster's DNS, in this order.
//!
//! It must not know how it is taken down again.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::image::Image;
use super::node::{self, Node, Outfit};
use super::removal::MADE_NETNS_DIR;
use super::wires::{self, Wired};
use super::{Cluster, NODES, Options, State, groups, images, kubeconfig, place, plane_dir, settings, wired};
use crate::kubernetes::{ControlPlane, Reach};
use crate::process::{self, ProcessId};
use crate::site::NETNS_DIR;
use crate::{cgroup, interrupt};

impl Cluster {
    pub(super) fn make(options: &Options, tell: &dyn Fn(&str)) -> Result<Self> {
        let site = options.site.clone();
        for dir in [site.logs(), images(&site)] {
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        if !Path::new(NETNS_DIR).exists() {
            fs::write(site.run_dir().join(MADE_NETNS_DIR), "").context("note that /run/netns is ours")?;
        }
        let nodes = wired();
        wires::create(&site, &nodes)?;
        cgroup::create(&place(&site).cgroup)?;
        tell("control plane");
        let users = NODES
            .into_iter()
            .map(settings::user)
            .chain(settings::components());
        let reach = Reach {
            addr: Some(wires::CONTROL_PLANE),
            users: users.collect(),
        };
        let plane = ControlPlane::up_with(
            &plane_dir(&site),
            Some(place(&site)),
            std::slice::from_ref(&options.programs),
            &reach,
        )?;
        plane.write_kubeconfig(&kubeconfig(&site), &plane.admin_token())?;
        let mut cluster = Self {
            site,
            plane,
            state: State {
                programs: options.programs.clone(),
                holders: Vec::new(),
                running: Vec::new(),
            },
        };
        tell("nodes");
        for wired in nodes {
            cluster.start_node(wired, options)?;
        }
        cluster.save()?;
        cluster.load_first_images(options)?;
        for manifest in &options.manifests {
            cluster.apply(manifest)?;
        }
        tell("waiting until nodes and DNS are ready");
        cluster.wait_for_nodes()?;
        cluster.rollout("kube-system", "deployment/coredns")?;
        Ok(cluster)
    }

    fn start_node(&mut self, wired: Wired, options: &Options) -> Result<()> {
        interrupt::check()?;
        let site = self.site.clone();
        let node = Node { site: &site, wired };
        groups::create(&node.cgroup_root())?;
        cgroup::create(&node.cgroup())?;
        let outfit = Outfit {
            programs: options.programs.clone(),
            images: images(&site),
            runc: options.runc.clone(),
            api: format!("https://{}", self.plane.addr()),
            root: self.plane.root(),
        };
        let holder = known(node.hold(&outfit)?)?;
        self.state.holders.push(holder);
        for name in node::PROGRAMS {
            let id = known(node.start(name, holder)?)?;
            self.state.running.push((format!("{}-{name}", wired.name), id));
            if name == "containerd" {
                let answers = process::wait_until(LIMIT, || {
                    ensure!(id.is_alive(), "containerd has ended:\n{}", node.said(name));
                    Ok(node.has_runtime(holder)?.then_some(()))
                })?;
                answers.with_context(|| format!("containerd does not answer:\n{}", node.said(name)))?;
            }
        }
        Ok(())
    }

    /// Pause, busybox and `CoreDNS`: what the cluster itself is made of.
    fn load_first_images(&self, options: &Options) -> Result<()> {
        let busybox = "/bin/busybox";
        // As process 1 of a sandbox it has nothing to do but to stay.
        let pause = Image::new(settings::PAUSE, &[busybox, "sleep", "2147483647"])?;
        self.load("pause", &pause.with(&options.busybox, busybox))?;
        let mut shell = Image::new("localhost/busybox:lab", &["/bin/sh"])?.with(&options.busybox, busybox);
        for applet in APPLETS {
            shell = shell.link(&format!("/bin/{applet}"), busybox);
        }
        self.load("busybox", &shell)?;
        let dns = Image::new("localhost/coredns:lab", &["/coredns"])?;
        self.load(
            "coredns",
            &dns.with(&options.programs.join("coredns"), "/coredns"),
        )
    }

    fn wait_for_nodes(&self) -> Result<()> {
        let ready = process::wait_until(LIMIT, || {
            for (name, id) in &self.state.running {
                if !id.is_alive() {
                    let log = self.site.logs().join(format!("{name}.log"));
                    bail!("{name} has ended:\n{}", crate::agent::tail(&log, 12));
                }
            }
            let nodes = self.nodes()?;
            Ok((nodes.len() == NODES.len() && nodes.iter().all(|(_, ready)| *ready)).then_some(()))
        })?;
        ready.with_context(|| format!("nodes are not ready: {:?}", self.nodes()))
    }
}

/// The process of a child that outlives this command, or is reaped as soon as it ends.
fn known(mut child: Child) -> Result<ProcessId> {
    let id = ProcessId::of(child.id())?;
    thread::spawn(move || child.wait());
    Ok(id)
}

/// What the shell in an image may call by name.
const APPLETS: [&str; 15] = [
    "sh", "cat", "echo", "env", "grep", "hostname", "httpd", "ip", "ls", "mkdir", "nc", "nslookup", "sleep",
    "true", "wget",
];
const LIMIT: Duration = Duration::from_mins(2);
