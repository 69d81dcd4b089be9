//! A real node: a network and a mount namespace with a containerd, a kubelet and a kube-proxy of their own.
//!
//! All ends with the node's processes. It must not know which pods run on it, nor how its file system is made its own:
//! that is `house`.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::house::House;
use super::settings;
use super::wires::Wired;
use crate::agent::tail;
use crate::process::{self, Output, ProcessId};
use crate::sandbox::{self, Place};
use crate::site::Site;

/// The programs of a node, in the order of their start.
pub(super) const PROGRAMS: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];
/// What a node needs of its cluster.
#[derive(Debug, Clone)]
pub(super) struct Outfit {
    /// The directory with the programs.
    pub(super) programs: PathBuf,
    /// The directory with packed images.
    pub(super) images: PathBuf,
    /// Where `runc` is.
    pub(super) runc: PathBuf,
    /// Where the API server is, and its root.
    pub(super) api: String,
    /// The root that the API server is verified by, and signs its own calls to kubelets with.
    pub(super) root: PathBuf,
}

/// A node, running or not.
#[derive(Debug, Clone)]
pub(super) struct Node<'s> {
    pub(super) site: &'s Site,
    pub(super) wired: Wired,
}

impl Node<'_> {
    /// Makes the node's own file system and the process that holds it.
    pub(super) fn hold(&self, outfit: &Outfit) -> Result<Child> {
        let house = House {
            own: &self.dir(),
            programs: &outfit.programs,
            images: &outfit.images,
        };
        house.furnish()?;
        self.write_settings(outfit)?;
        let unshared = [
            "unshare",
            "--mount",
            "--uts",
            "--propagation",
            "private",
            "--",
            "/bin/sh",
            "-ec",
        ];
        let mut program = unshared.map(str::to_owned).to_vec();
        program.push(house.script(self.wired.name)?);
        let place = self.place(None);
        let log = self.log("holder");
        let mut child = sandbox::start(place.command(&program)?, &log, &log)?;
        match sandbox::wait_until_held(&place, &mut child, &log) {
            Ok(()) => Ok(child),
            Err(error) => {
                process::reap(&mut child)?;
                Err(error)
            }
        }
    }

    /// Files below the node's `/etc`, which the overlay shows over the machine's.
    fn write_settings(&self, outfit: &Outfit) -> Result<()> {
        let etc = self.dir().join("etc");
        let write = |name: &str, text: String| {
            let path = etc.join(name);
            let dir = path.parent().context("a file lies in a directory")?;
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        let root = fs::read_to_string(&outfit.root).context("read the root of the API server")?;
        write("kubernetes/ca.crt", root)?;
        for user in [self.wired.name, "kube-proxy"] {
            let token = outfit.root.with_file_name(format!("{user}.token"));
            let token = fs::read_to_string(&token).with_context(|| token.display().to_string())?;
            let file = if user == "kube-proxy" { user } else { "kubelet" };
            write(
                &format!("kubernetes/{file}.kubeconfig"),
                kubeconfig(&outfit.api, &token),
            )?;
        }
        write(
            "containerd/config.toml",
            settings::containerd(&outfit.runc.display().to_string()),
        )?;
        write(
            "cni/net.d/10-bridge.conflist",
            settings::cni(self.wired).to_string(),
        )?;
        let kubelet = settings::kubelet(self.wired, &self.cgroup_root());
        write("kubernetes/kubelet.yaml", kubelet.to_string())?;
        write(
            "kubernetes/kube-proxy.yaml",
            settings::kube_proxy(self.wired).to_string(),
        )?;
        // Outside of the cluster there is nobody to ask.
        write(
            "resolv.conf",
            "# no name server outside of the cluster\n".to_owned(),
        )
    }

    /// Starts one of [`PROGRAMS`].
    pub(super) fn start(&self, name: &str, holder: ProcessId) -> Result<Child> {
        let wired = self.wired;
        let arguments = match name {
            "containerd" => vec!["--config=/etc/containerd/config.toml".to_owned()],
            "kubelet" => vec![
                "--config=/etc/kubernetes/kubelet.yaml".to_owned(),
                "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig".to_owned(),
                format!("--hostname-override={}", wired.name),
                format!("--node-ip={}", wired.addr()),
            ],
            "kube-proxy" => vec!["--config=/etc/kubernetes/kube-proxy.yaml".to_owned()],
            _ => bail!("{name} is no program of a node"),
        };
        let mut program = vec![format!("/opt/kubernetes/{name}")];
        program.extend(arguments);
        let log = self.log(name);
        sandbox::start(self.command(&program, holder)?, &log, &log)
    }

    /// Runs a command on the node, as its administrator would.
    pub(super) fn run(&self, program: &[&str], holder: ProcessId, limit: Duration) -> Result<Output> {
        let program: Vec<_> = program.iter().copied().map(str::to_owned).collect();
        process::run(&mut self.command(&program, holder)?, limit)
    }

    /// A command on the node.
    pub(super) fn command(&self, program: &[String], holder: ProcessId) -> Result<Command> {
        let mut command = self.place(Some(holder)).command(program)?;
        command.env("PATH", "/opt/kubernetes:/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(command)
    }

    /// True once containerd answers.
    pub(super) fn has_runtime(&self, holder: ProcessId) -> Result<bool> {
        let asked = self.run(
            &["ctr", "--address", settings::CONTAINERD, "version"],
            holder,
            LIMIT,
        )?;
        Ok(asked.is_success())
    }

    /// Hands an image to containerd.
    pub(super) fn import(&self, image: &str, holder: ProcessId) -> Result<()> {
        let archive = format!("/opt/images/{image}.tar");
        let program = [
            "ctr",
            "--address",
            settings::CONTAINERD,
            "--namespace",
            "k8s.io",
            "images",
            "import",
            &archive,
        ];
        let imported = self.run(&program, holder, LIMIT)?.success();
        imported
            .map(drop)
            .with_context(|| format!("import the image {image}"))
    }

    /// The last lines of what one of the programs wrote.
    pub(super) fn said(&self, name: &str) -> String {
        tail(&self.log(name), 12)
    }

    /// The cgroup of the node's own programs; its pods are beside it.
    pub(super) fn cgroup(&self) -> PathBuf {
        self.site.cgroup().join(self.wired.name).join("system")
    }

    /// The group below which the kubelet keeps its pods, as a path in each hierarchy.
    pub(super) fn cgroup_root(&self) -> String {
        format!("/{}/{}", self.site.name(), self.wired.name)
    }

    fn place(&self, holder: Option<ProcessId>) -> Place {
        Place {
            cgroup: self.cgroup(),
            netns: Site::netns_path(&self.site.node_netns(self.wired.name)),
            mounts_of: holder,
            cwd: PathBuf::from("/"),
        }
    }

    fn dir(&self) -> PathBuf {
        self.site.run_dir().join("nodes").join(self.wired.name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.site.logs().join(format!("{}-{name}.log", self.wired.name))
    }
}

fn kubeconfig(api: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{ "name": "lab", "cluster": { "server": api, "certificate-authority": CA } }],
        "users": [{ "name": "lab", "user": { "token": token } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
    })
    .to_string()
}

const CA: &str = "/etc/kubernetes/ca.crt";
const LIMIT: Duration = Duration::from_mins(1);
