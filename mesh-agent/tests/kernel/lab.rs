//! Two network namespaces joined by a veth pair, a cgroup for the pod, and Python inside.

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use aya::maps::{HashMap, Map, MapData, SockHash};
use aya::programs::links::{FdLink, PinnedLink};
use mesh_agent::kernel::Hook;
use mesh_agent::kernel::capacity::Capacity;
use mesh_agent::kernel::ebpf::EbpfKernel;
use mesh_agent::kernel::pins::Pins;
use mesh_common::bpf_link;
use mesh_common::layout::Addr;
use nix::mount::umount;
use serde::Deserialize;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The pod that is enrolled.
pub(crate) const POD: [&str; 2] = ["10.231.7.1", "fd00:231:7::1"];
/// The node that the pod is on.
pub(crate) const NODE: &str = "node";
/// Its neighbour, which is not.
pub(crate) const PEER: [&str; 2] = ["10.231.7.2", "fd00:231:7::2"];

/// Everything that was made for one test run; dropped, all of it goes.
pub(crate) struct Lab {
    name: String,
    cgroup: PathBuf,
    bpf: PathBuf,
}

/// Where a program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The pod's end of the veth pair, in its cgroup.
    Pod,
    /// The same, in a cgroup below the pod's, as Kubernetes puts its containers.
    Container,
    /// The other end of the veth pair, and no cgroup of ours.
    Peer,
    /// The other end, in the pod's cgroup: a process of the pod that got itself into a namespace with a way out.
    Stray,
    /// A namespace of its own with the pod's addresses, and no cgroup of ours.
    Twin,
}

impl Lab {
    pub(crate) fn up(test: &str) -> Result<Self> {
        let name = format!("mesh-k{}-{test}", std::process::id());
        let cgroup = cgroup2()?.join(&name).join("pod");
        fs::create_dir_all(cgroup.join("container"))?;
        // On it the agent mounts a BPF file system: with that, whatever it pinned goes.
        let bpf = PathBuf::from("/run").join(format!("{name}-bpf"));
        let lab = Self { name, cgroup, bpf };
        for side in [Side::Pod, Side::Peer] {
            ip(&["netns", "add", &lab.netns_name(side)])?;
        }
        let (pod, peer) = (lab.netns_name(Side::Pod), lab.netns_name(Side::Peer));
        ip(&[
            "-n", &pod, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &peer,
        ])?;
        for (netns, addrs) in [(&pod, POD), (&peer, PEER)] {
            let [v4, v6] = addrs;
            ip(&["-n", netns, "addr", "add", &format!("{v4}/24"), "dev", "eth0"])?;
            ip(&[
                "-n",
                netns,
                "addr",
                "add",
                &format!("{v6}/64"),
                "dev",
                "eth0",
                "nodad",
            ])?;
            ip(&["-n", netns, "link", "set", "lo", "up"])?;
            ip(&["-n", netns, "link", "set", "eth0", "up"])?;
        }
        Ok(lab)
    }

    pub(crate) fn netns(&self, side: Side) -> PathBuf {
        PathBuf::from("/run/netns").join(self.netns_name(side))
    }

    pub(crate) fn cgroup(&self) -> PathBuf {
        self.cgroup.clone()
    }

    /// The cgroup of a container of the pod.
    pub(crate) fn container(&self) -> PathBuf {
        self.cgroup.join("container")
    }

    /// The cgroup of a second pod.
    pub(crate) fn twin_cgroup(&self) -> PathBuf {
        self.cgroup.with_file_name("twin")
    }

    /// Makes [`Side::Twin`], its cgroup, and the container's.
    pub(crate) fn add_twin(&self) -> Result<()> {
        let twin = self.netns_name(Side::Twin);
        ip(&["netns", "add", &twin])?;
        for addr in POD {
            ip(&["-n", &twin, "addr", "add", addr, "dev", "lo"])?;
        }
        ip(&["-n", &twin, "link", "set", "lo", "up"])?;
        fs::create_dir_all(self.twin_cgroup())?;
        Ok(())
    }

    /// A pinned hash map, as anybody with a BPF tool may open it.
    pub(crate) fn map<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> Result<HashMap<MapData, K, V>> {
        let map = MapData::from_pin(Pins::at(&self.bpf, NODE).maps().join(name))?;
        Ok(HashMap::try_from(Map::HashMap(map))?)
    }

    /// The pinned map of listeners.
    pub(crate) fn listeners(&self) -> Result<SockHash<MapData, Addr>> {
        let map = MapData::from_pin(Pins::at(&self.bpf, NODE).maps().join("INBOUND"))?;
        Ok(SockHash::try_from(Map::SockHash(map))?)
    }

    /// The programs, on the maps that are pinned for this lab, as a starting agent loads them.
    pub(crate) fn kernel(&self) -> Result<EbpfKernel> {
        self.kernel_of(Capacity::default())
    }

    /// The same with maps of another size.
    pub(crate) fn kernel_of(&self, capacity: Capacity) -> Result<EbpfKernel> {
        Ok(EbpfKernel::load(&self.bpf, NODE, capacity)?)
    }

    /// The BPF file system.
    pub(crate) fn bpf(&self) -> &Path {
        &self.bpf
    }

    /// The links of the pod, as its pins say.
    pub(crate) fn pinned_links(&self) -> Result<Vec<PathBuf>> {
        let mut links = Vec::new();
        for pod in fs::read_dir(Pins::at(&self.bpf, NODE).links())? {
            for link in fs::read_dir(pod?.path())? {
                links.push(link?.path());
            }
        }
        Ok(links)
    }

    /// The numbers of the pod's links, which no other link of this boot gets.
    pub(crate) fn link_ids(&self) -> Result<BTreeSet<u32>> {
        let links = self.pinned_links()?;
        let ids = links.iter().map(|path| Ok(PinnedLink::from_pin(path)?));
        ids.map(|link: Result<PinnedLink>| Ok(FdLink::from(link?).info()?.id()))
            .collect()
    }

    /// Detaches a link of the pod, as `bpftool link detach` does.
    pub(crate) fn detach(&self, hook: Hook) -> Result<()> {
        let path = CString::new(self.pin_of(hook)?.as_os_str().as_bytes())?;
        let link = bpf_link::open_pinned(&path).map_err(std::io::Error::from_raw_os_error)?;
        bpf_link::detach(link.as_fd()).map_err(std::io::Error::from_raw_os_error)?;
        Ok(())
    }

    /// Removes the pin of a link of the pod.
    pub(crate) fn unpin(&self, hook: Hook) -> Result<()> {
        Ok(fs::remove_file(self.pin_of(hook)?)?)
    }

    fn pin_of(&self, hook: Hook) -> Result<PathBuf> {
        let links = self.pinned_links()?;
        let mut links = links.into_iter();
        Ok(links
            .find(|link| link.ends_with(hook.program()))
            .ok_or("no such pin")?)
    }

    /// Puts another map in the place of a pinned one.
    pub(crate) fn replace_pinned_map(&self, name: &str, by: &str) -> Result<()> {
        let maps = Pins::at(&self.bpf, NODE).maps();
        fs::remove_file(maps.join(name))?;
        MapData::from_pin(maps.join(by))?.pin(maps.join(name))?;
        Ok(())
    }

    /// Takes a side's namespace away, as the end of a pod does.
    pub(crate) fn remove_netns(&self, side: Side) -> Result<()> {
        ip(&["netns", "del", &self.netns_name(side)])
    }

    /// How many links this process holds at the pod's cgroup and namespace, as the kernel tells.
    pub(crate) fn links(&self) -> Result<usize> {
        let cgroup = format!("cgroup_id:\t{}\n", fs::metadata(&self.cgroup)?.ino());
        let netns = format!("netns_ino:\t{}\n", fs::metadata(self.netns(Side::Pod))?.ino());
        let mut links = 0;
        for entry in fs::read_dir("/proc/self/fdinfo")? {
            // A descriptor that another test closes meanwhile is none of ours.
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            links += usize::from(info.contains(&cgroup) || info.contains(&netns));
        }
        Ok(links)
    }

    /// A server of one connection: says whom it sees, then ends.
    pub(crate) fn server(&self, side: Side, addr: &str) -> Result<Server> {
        let mut child = self.python(side, &["server", addr])?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut port = String::new();
        lines.read_line(&mut port)?;
        let addr = SocketAddr::new(addr.parse()?, port.trim().parse()?);
        Ok(Server { addr, child, lines })
    }

    /// Dials, and says what it saw. `how` is a way that the script below knows.
    pub(crate) fn client(&self, side: Side, how: &str, to: SocketAddr) -> Result<Seen> {
        let child = self.python(
            side,
            &["client", how, &to.ip().to_string(), &to.port().to_string()],
        )?;
        let output = child.wait_with_output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// One of the programs of the script below, inside.
    pub(crate) fn python(&self, side: Side, args: &[&str]) -> Result<Child> {
        self.script(side, PYTHON, args)
    }

    /// Starts a Python program inside; what it prints can be read.
    pub(crate) fn script(&self, side: Side, python: &str, args: &[&str]) -> Result<Child> {
        let (join, cgroup) = match side {
            Side::Pod | Side::Stray => (JOIN, self.cgroup()),
            Side::Container => (JOIN, self.container()),
            Side::Peer | Side::Twin => ("", self.cgroup()),
        };
        let script = format!("{join} exec nsenter --net=\"$1\" -- python3 -c \"$2\" \"${{@:3}}\"");
        let child = Command::new("bash")
            .args(["-c", &script])
            .arg(cgroup)
            .arg(self.netns(side))
            .arg(python)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(child)
    }

    fn netns_name(&self, side: Side) -> String {
        let end = match side {
            Side::Pod | Side::Container => "pod",
            Side::Peer | Side::Stray => "peer",
            Side::Twin => "twin",
        };
        format!("{}-{end}", self.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for side in [Side::Pod, Side::Peer, Side::Twin] {
            if self.netns(side).exists()
                && let Err(error) = ip(&["netns", "del", &self.netns_name(side)])
            {
                eprintln!("left behind: {error}");
            }
        }
        if self.bpf.exists()
            && let Err(error) = umount(&self.bpf)
        {
            eprintln!("left behind: {}: {error}", self.bpf.display());
        }
        let bpf = self.bpf.exists().then_some(self.bpf.as_path());
        let (container, twin) = (self.container(), self.twin_cgroup());
        let made = [container.as_path(), &twin, &self.cgroup];
        let made = made.into_iter().map(Some).chain([self.cgroup.parent(), bpf]);
        for folder in made.flatten().filter(|folder| folder.exists()) {
            if let Err(error) = fs::remove_dir(folder) {
                eprintln!("left behind: {}: {error}", folder.display());
            }
        }
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Server {
    /// Waits for its one connection.
    pub(crate) fn seen(mut self) -> Result<Seen> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        self.child.wait()?;
        Ok(serde_json::from_str(&line)?)
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// What one end of a connection says of it.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `getsockname()`.
    pub(crate) own: Option<SocketAddr>,
    /// `getpeername()`.
    pub(crate) peer: Option<SocketAddr>,
    /// Server: what `accept()` returned.
    pub(crate) accepted: Option<SocketAddr>,
    /// Client: what the server sent.
    pub(crate) reply: Option<String>,
    /// The name of the errno that ended it.
    pub(crate) errno: Option<String>,
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let point = fields
        .filter(|fields| fields.get(2) == Some(&"cgroup2"))
        .find_map(|fields| fields.get(1).map(PathBuf::from));
    Ok(point.ok_or("no cgroup v2")?)
}

/// The addresses of a list of texts.
pub(crate) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const JOIN: &str = "echo $$ > \"$0/cgroup.procs\" || exit 1; ";

const PYTHON: &str = include_str!("peers.py");
