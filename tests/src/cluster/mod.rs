//! A real cluster on this machine: a control plane, two nodes with containerd and kubelet, and a cluster DNS.
//!
//! Everything that it makes carries the name of its site, and nothing of the machine's own is changed. It must not know of the mesh, nor how the programs are built.

pub mod archive;
pub mod claims;
mod groups;
mod house;
pub mod image;
mod making;
mod node;
mod removal;
mod settings;
mod wires;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::image::Image;
use self::node::Node;
use self::removal::down_locked;
pub use self::removal::{down, remains};
use self::wires::Wired;
use crate::interrupt;
use crate::kubernetes::api::at;
use crate::kubernetes::{ControlPlane, DECIDERS, PROGRAMS};
use crate::process::{self, Output, ProcessId};
use crate::sandbox::{self, Place};
use crate::site::Site;
use crate::wire::Capture;

/// The name of the site that is used when none is given.
pub const DEFAULT_NAME: &str = "kube-lab";

/// The nodes.
pub const NODES: [&str; 2] = ["node-a", "node-b"];

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it lives.
    pub site: Site,
    /// The directory with all of [`programs`].
    pub programs: PathBuf,
    /// Where `runc` is.
    pub runc: PathBuf,
    /// A static busybox, of which the first images are made.
    pub busybox: PathBuf,
    /// Manifests to begin with: the cluster's DNS.
    pub manifests: Vec<PathBuf>,
    /// The directory that logs are copied to before a cluster that failed is taken down.
    pub logs_to: PathBuf,
}

impl Options {
    /// Copies what the programs wrote to where it outlives the cluster.
    pub fn keep_logs(&self) -> Result<()> {
        let logs = self.site.logs();
        if !logs.exists() {
            return Ok(());
        }
        if let Some(dir) = self.logs_to.parent() {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let mut copy = Command::new("cp");
        copy.args(["--recursive", "--no-target-directory"])
            .arg(&logs)
            .arg(&self.logs_to);
        process::run(&mut copy, WORK_LIMIT)?.success().map(drop)
    }
}

/// The programs that a cluster is made of, and those that its users need.
pub fn programs() -> impl Iterator<Item = &'static str> {
    let users = ["coredns", "ctr", "containerd-shim-runc-v2", "kubectl", "helm"];
    PROGRAMS
        .into_iter()
        .chain(DECIDERS)
        .chain(node::PROGRAMS)
        .chain(house::CNI_PLUGINS)
        .chain(users)
}

/// A cluster, running or not.
#[derive(Debug)]
pub struct Cluster {
    site: Site,
    plane: ControlPlane,
    state: State,
}

/// A pod as the API server shows it; empty fields are not known yet.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The node that it is on.
    pub node: String,
    /// Its address.
    pub addr: String,
}

/// What must be known of a cluster to use it; taking it down needs its name only.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    programs: PathBuf,
    /// The processes that hold the nodes, in the order of [`NODES`].
    holders: Vec<ProcessId>,
    /// The nodes' programs, by log name.
    running: Vec<(String, ProcessId)>,
}

impl Cluster {
    /// Takes down what is left of an earlier cluster of this name, makes a new one, and waits until its nodes and its
    /// DNS are ready. What was begun is taken down again when it fails.
    pub fn up(options: &Options, tell: &dyn Fn(&str)) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a cluster needs root: run this command with sudo"
        );
        let _lock = options.site.lock()?;
        down_locked(&options.site).context("take down the earlier cluster")?;
        let made = Self::make(options, tell);
        if made.is_err() {
            interrupt::forget();
            options.keep_logs()?;
            down_locked(&options.site).context("take down what was begun")?;
        }
        made
    }

    /// The one that an earlier command made; none where there is none.
    pub fn attach(site: &Site) -> Result<Option<Self>> {
        let path = site.run_dir().join(STATE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let state = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let plane = ControlPlane::attach(&plane_dir(site), Some(place(site)))?;
        Ok(Some(Self {
            site: site.clone(),
            plane: plane.context("the control plane is gone: take the cluster down and up again")?,
            state,
        }))
    }

    /// Packs an image and hands it to all nodes. `file` names the archive.
    pub fn load(&self, file: &str, image: &Image) -> Result<()> {
        let dir = images(&self.site);
        let (archive, staging) = (dir.join(format!("{file}.tar")), dir.join(format!(".{file}")));
        archive::pack(std::slice::from_ref(image), &archive, &staging)
            .with_context(|| format!("pack the image {}", image.name))?;
        self.import(file)
    }

    /// Hands an archive of images to all nodes, which take what is for their platform. `file` names the copy of it.
    pub fn load_archive(&self, file: &str, archive: &Path) -> Result<()> {
        let copy = images(&self.site).join(format!("{file}.tar"));
        fs::copy(archive, &copy)
            .with_context(|| format!("copy {} to {}", archive.display(), copy.display()))?;
        self.import(file)
    }

    /// Hands the archive `file` of the images' directory to all nodes.
    fn import(&self, file: &str) -> Result<()> {
        for (wired, holder) in wired().into_iter().zip(&self.state.holders) {
            Node {
                site: &self.site,
                wired,
            }
            .import(file, *holder)?;
        }
        Ok(())
    }

    /// Applies a file or a directory of manifests, as the administrator.
    pub fn apply(&self, manifests: &Path) -> Result<()> {
        let path = manifests.display().to_string();
        self.kubectl(&["apply", "--server-side", "--filename", &path])
            .map(drop)
    }

    /// Applies manifests, as the administrator.
    pub fn apply_text(&self, manifests: &str) -> Result<()> {
        let path = self.site.run_dir().join("applied.yaml");
        fs::write(&path, manifests).with_context(|| path.display().to_string())?;
        self.apply(&path)
    }

    /// Runs kubectl as the administrator; what it wrote, where it succeeded.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let program: Vec<_> = ["kubectl"]
            .iter()
            .chain(arguments)
            .map(|word| (*word).to_owned())
            .collect();
        let output = process::run(&mut self.command(&program)?, WORK_LIMIT)?;
        let said = output
            .success()
            .with_context(|| format!("kubectl {}", arguments.join(" ")))?;
        Ok(said.stdout)
    }

    /// Runs a program inside a pod; what it wrote, where it succeeded.
    pub fn exec(&self, namespace: &str, pod: &str, program: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", "--namespace", namespace, pod, "--"], program].concat())
    }

    /// The pods with a label.
    pub fn pods(&self, namespace: &str, label: &str) -> Result<Vec<Pod>> {
        let list = self.kubectl(&[
            "get",
            "pods",
            "--namespace",
            namespace,
            "--selector",
            label,
            "--output",
            "json",
        ])?;
        let list: Value = serde_json::from_str(&list).context("kubectl's list of pods")?;
        let text = |pod: &Value, pointer| at(pod, pointer).as_str().unwrap_or_default().to_owned();
        let items = at(&list, "/items").as_array().cloned().unwrap_or_default();
        Ok(items
            .iter()
            .map(|pod| Pod {
                name: text(pod, "/metadata/name"),
                node: text(pod, "/spec/nodeName"),
                addr: text(pod, "/status/podIP"),
            })
            .collect())
    }

    /// A command in the network of the control plane, with the cluster's programs and its administrator's kubeconfig.
    pub fn command(&self, program: &[String]) -> Result<Command> {
        let mut command = place(&self.site).command(program)?;
        let path = std::env::join_paths(
            [self.state.programs.clone()]
                .into_iter()
                .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from)),
        );
        command
            .env("PATH", path.context("a search path")?)
            .env("KUBECONFIG", kubeconfig(&self.site));
        Ok(command)
    }

    /// Runs a command on a node, in its network and its file system.
    pub fn run_on(&self, node: &str, program: &[&str], limit: Duration) -> Result<Output> {
        let (wired, holder) = self.node(node)?;
        Node {
            site: &self.site,
            wired,
        }
        .run(program, holder, limit)
    }

    /// Waits until a Deployment or DaemonSet is as it was asked to be; says what its pods say when it is not.
    pub fn rollout(&self, namespace: &str, what: &str) -> Result<()> {
        let asked = [
            "rollout",
            "status",
            what,
            "--namespace",
            namespace,
            "--timeout",
            "120s",
        ];
        let Err(error) = self.kubectl(&asked) else {
            return Ok(());
        };
        let pods = self.kubectl(&["describe", "pods", "--namespace", namespace])?;
        Err(error.context(format!("{what} is not ready:\n{pods}")))
    }

    /// Ready or not, by node.
    pub fn nodes(&self) -> Result<Vec<(String, bool)>> {
        let list = self.plane.api().get("/api/v1/nodes")?.success()?;
        let items = at(&list, "/items").as_array().cloned().unwrap_or_default();
        Ok(items
            .iter()
            .map(|node| {
                (
                    at(node, "/metadata/name").as_str().unwrap_or_default().to_owned(),
                    is_ready(node),
                )
            })
            .collect())
    }

    /// The programs that ought to run, and whether they do.
    pub fn processes(&self) -> Result<Vec<(String, bool)>> {
        let mut found = Vec::new();
        for name in self.plane.programs() {
            found.push((name.to_owned(), self.plane.is_alive(name)?));
        }
        found.extend(
            self.state
                .running
                .iter()
                .map(|(name, id)| (name.clone(), id.is_alive())),
        );
        Ok(found)
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// One of the programs that it is made of.
    pub fn program(&self, name: &str) -> PathBuf {
        self.state.programs.join(name)
    }

    /// Where the cluster lives.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The address of a node on the wire between the nodes.
    pub fn node_addr(&self, node: &str) -> Result<Ipv4Addr> {
        Ok(self.node(node)?.0.addr())
    }

    /// Starts to capture `what`, in the words of tcpdump, on the wire between the nodes.
    pub fn capture(&self, name: &str, what: &str) -> Result<Capture> {
        let [node, _] = NODES;
        Capture::among(&self.site, node, wires::BROADCAST, name, what)
    }

    fn node(&self, name: &str) -> Result<(Wired, ProcessId)> {
        let mut nodes = wired().into_iter().zip(self.state.holders.iter().copied());
        nodes
            .find(|(wired, _)| wired.name == name)
            .with_context(|| format!("there is no node {name}"))
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string(&self.state).context("write the cluster's state")?;
        let path = self.site.run_dir().join(STATE);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

/// True where the node's condition `Ready` is.
fn is_ready(node: &Value) -> bool {
    let conditions = at(node, "/status/conditions")
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| at(condition, "/type") == "Ready" && at(condition, "/status") == "True")
}

fn wired() -> [Wired; 2] {
    let mut index = 0;
    NODES.map(|name| {
        index += 1;
        Wired { name, index }
    })
}

/// Where the control plane runs, and whoever talks to it from outside of the nodes.
fn place(site: &Site) -> Place {
    sandbox::observer(site, &site.fabric_netns())
}

fn plane_dir(site: &Site) -> PathBuf {
    site.run_dir().join("control-plane")
}

fn images(site: &Site) -> PathBuf {
    site.run_dir().join("images")
}

/// The administrator's kubeconfig.
pub fn kubeconfig(site: &Site) -> PathBuf {
    site.run_dir().join("kubeconfig")
}

const STATE: &str = "cluster.json";
const WORK_LIMIT: Duration = Duration::from_mins(3);
