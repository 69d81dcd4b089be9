//! A lab as a whole: up, down, and what is left.
//!
//! The order is that of a cluster: network, pods' sandboxes, agents, and only then the pods' programs, so that not
//! one of their connections is missed. It must not know what a suite or the demo does with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::input::{Input, PodName, Program};
use crate::kubelet::{self, Cluster, PodPlan};
use crate::network::NodePlan;
use crate::process::ProcessId;
use crate::running::Running;
use crate::sandbox::{self, Place};
use crate::site::{NETNS_DIR, Site, SiteLock};
use crate::state::{PodState, State};
use crate::{addresses, agent, cgroup, hosts, interrupt, network, process};

const PROGRAM_LIMIT: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(5);

/// What a lab is made from.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it lives.
    pub site: Site,
    /// The directory of manifests and `lab.yaml`.
    pub dir: PathBuf,
    /// The agent's binary; none gives a plain network.
    pub agent: Option<PathBuf>,
    /// Directories searched for programs before the machine's own.
    pub tools: Vec<PathBuf>,
}

/// A lab that this process made. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    running: Running,
    children: Vec<Child>,
    is_kept: bool,
    #[expect(dead_code, reason = "held until the lab is down")]
    lock: SiteLock,
}

impl Lab {
    /// Takes down what is left of an earlier lab of this name, then makes a new one. `tell` hears what is being done.
    pub fn up(options: &Options, tell: &dyn Fn(&str)) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a lab needs root: run this command with sudo"
        );
        let lock = options.site.lock()?;
        let input = Input::read(&options.dir)?;
        let cluster = kubelet::complete(&input, &options.site, new_uid)?;
        down_locked(&options.site).context("take down the earlier lab")?;
        let state = State {
            input: input.dir.clone(),
            made_netns_dir: !Path::new(NETNS_DIR).exists(),
            tools: options.tools.clone(),
            ..State::default()
        };
        let running = Running {
            site: options.site.clone(),
            state,
        };
        let mut lab = Self {
            running,
            children: Vec::new(),
            is_kept: false,
            lock,
        };
        lab.make(options, &input, &cluster, tell)?;
        Ok(lab)
    }

    /// The lab as anybody sees it.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Leaves the lab up when this process ends.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Takes the lab down and says what could not be removed.
    pub fn down(mut self) -> Result<()> {
        self.is_kept = true;
        self.take_down()
    }

    fn make(
        &mut self,
        options: &Options,
        input: &Input,
        cluster: &Cluster,
        tell: &dyn Fn(&str),
    ) -> Result<()> {
        let site = self.running.site.clone();
        for dir in [site.manifests(), site.staging(), site.logs()] {
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        self.running.state.save(&site)?;
        for (name, text) in &cluster.files {
            let path = site.manifests().join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        let nodes = input.lab.nodes.iter().map(|name| {
            let index = addresses::node_index(input, name).context("too many nodes")?;
            Ok(NodePlan {
                name: name.clone(),
                index,
            })
        });
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        tell(&format!(
            "network: {} nodes, {} pods",
            nodes.len(),
            cluster.pods.len()
        ));
        network::create(&site, &nodes, &cluster.pods.values().collect::<Vec<_>>())?;
        cgroup::create(&site.observer_cgroup())?;
        for pod in cluster.pods.values() {
            interrupt::check()?;
            self.hold_pod(cluster, pod)?;
        }
        self.running.state.nodes = input.lab.nodes.iter().map(|node| (node.clone(), None)).collect();
        self.running.state.save(&site)?;
        if let Some(binary) = &options.agent {
            self.start_agents(binary, &input.lab.agent, tell)?;
        }
        self.start_programs(input, tell)
    }

    /// Starts the process that holds a pod's namespaces.
    fn hold_pod(&mut self, cluster: &Cluster, pod: &PodPlan) -> Result<()> {
        let site = &self.running.site;
        cgroup::create(&pod.cgroup)?;
        let scratch = site.scratch(&pod.name);
        fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
        let etc = site.run_dir().join("etc").join(pod.name.underscored());
        fs::create_dir_all(&etc).with_context(|| format!("make {}", etc.display()))?;
        let (hosts, resolv_conf) = (etc.join("hosts"), etc.join("resolv.conf"));
        fs::write(&hosts, hosts::file_for(pod, cluster)).with_context(|| hosts.display().to_string())?;
        let resolver = "# names are in /etc/hosts; there is no name server here\n";
        fs::write(&resolv_conf, resolver).with_context(|| resolv_conf.display().to_string())?;
        let netns = Site::netns_path(&pod.netns);
        let place = Place {
            cgroup: pod.cgroup.clone(),
            netns,
            mounts_of: None,
            cwd: scratch,
        };
        let holder = sandbox::hold(
            &place,
            &pod.name.name,
            &hosts,
            &resolv_conf,
            &site.logs().join("holders.log"),
        )?;
        let holder_id = ProcessId::of(holder.id())?;
        self.children.push(holder);
        let state = PodState {
            node: pod.node.clone(),
            ipv4: pod.ipv4,
            ipv6: pod.ipv6,
            uid: pod.uid.clone(),
            netns: pod.netns.clone(),
            cgroup: pod.cgroup.clone(),
            holder: holder_id,
            program: None,
        };
        self.running.state.pods.insert(pod.name.clone(), state);
        Ok(())
    }

    fn start_agents(&mut self, binary: &Path, more: &[String], tell: &dyn Fn(&str)) -> Result<()> {
        let site = self.running.site.clone();
        let own = site.agent_binary();
        fs::copy(binary, &own).with_context(|| format!("copy the agent {}", binary.display()))?;
        let binary = own;
        let mut agents = BTreeMap::new();
        for node in self.running.state.nodes.keys() {
            let bpf = site.bpf_mount(node);
            fs::create_dir_all(&bpf).with_context(|| format!("make {}", bpf.display()))?;
            process::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpf), GRACE)?
                .success()
                .context("mount a BPF file system: the kernel needs CONFIG_BPF_SYSCALL")?;
            cgroup::create(&site.agent_cgroup(node))?;
            let child = agent::start_with(&site, node, &binary, more)?;
            let id = ProcessId::of(child.id())?;
            self.children.push(child);
            agents.insert(node.clone(), Some(id));
        }
        self.running.state.nodes.clone_from(&agents);
        self.running.state.save(&site)?;
        for (node, id) in agents {
            tell(&format!("agent of {node}: waiting until it is ready"));
            if let Some(id) = id {
                agent::wait_ready(&site, &node, id)?;
            }
        }
        Ok(())
    }

    fn start_programs(&mut self, input: &Input, tell: &dyn Fn(&str)) -> Result<()> {
        let site = self.running.site.clone();
        let mut started = Vec::new();
        for program in input
            .lab
            .pods
            .iter()
            .filter(|program| !program.command.is_empty())
        {
            interrupt::check()?;
            let mut command =
                self.running
                    .command(&program.pod, &program.command, &input.dir.join(&program.cwd))?;
            command.envs(&program.env);
            let log = program_log(&site, &program.pod);
            let child = sandbox::start(command, &log, &log)?;
            let id = ProcessId::of(child.id())?;
            self.children.push(child);
            if let Some(pod) = self.running.state.pods.get_mut(&program.pod) {
                pod.program = Some(id);
            }
            started.push((program, id));
        }
        self.running.state.save(&site)?;
        tell(&format!("programs: waiting for {}", started.len()));
        started
            .into_iter()
            .try_for_each(|(program, id)| wait_for_program(&site, program, id))
    }

    fn take_down(&mut self) -> Result<()> {
        interrupt::forget();
        let result = down_locked(&self.running.site);
        for mut child in self.children.drain(..) {
            // Ended by its cgroup above; this takes its exit status so that no zombie stays.
            if result.is_ok() {
                child.wait().context("reap a program of the lab")?;
            }
        }
        result
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = self.take_down() {
            crate::say(&format!("the lab could not be taken down: {error:#}"));
        }
    }
}

/// Takes down a lab, whoever made it; nothing happens where there is none.
pub fn down(site: &Site) -> Result<()> {
    let _lock = site.lock()?;
    down_locked(site)
}

fn down_locked(site: &Site) -> Result<()> {
    // A state file that was cut by a crash is no reason to leave the rest.
    let state = State::load(site).unwrap_or_default().unwrap_or_default();
    let agents: Vec<_> = state.nodes.values().flatten().copied().collect();
    for agent in &agents {
        agent.signal(Signal::SIGTERM)?;
    }
    // Agents that take longer are ended with the rest.
    process::wait_until(GRACE, || {
        Ok(agents.iter().all(|agent| !agent.is_alive()).then_some(()))
    })?;
    cgroup::kill(site.cgroup())?;
    unmount_all(site)?;
    network::remove(site)?;
    cgroup::remove(site.cgroup())?;
    if site.run_dir().exists() {
        fs::remove_dir_all(site.run_dir()).with_context(|| format!("remove {}", site.run_dir().display()))?;
    }
    if state.made_netns_dir {
        network::remove_netns_dir()?;
    }
    let left = remains(site)?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(())
}

/// What is left of a lab on this machine: nothing, after `down`.
pub fn remains(site: &Site) -> Result<Vec<String>> {
    let mut left: Vec<_> = network::namespaces(site)?
        .iter()
        .map(|name| format!("namespace {name}"))
        .collect();
    left.extend(mounts(site)?.iter().map(|at| format!("mount {}", at.display())));
    left.extend(
        cgroup::processes(site.cgroup())?
            .iter()
            .map(|pid| format!("process {pid}")),
    );
    for path in [site.cgroup(), site.run_dir()] {
        if path.exists() {
            left.push(path.display().to_string());
        }
    }
    Ok(left)
}

fn unmount_all(site: &Site) -> Result<()> {
    for at in mounts(site)?.iter().rev() {
        process::run(Command::new("umount").arg(at), GRACE)?.success()?;
    }
    Ok(())
}

fn mounts(site: &Site) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let points = text
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from);
    Ok(points.filter(|at| at.starts_with(site.run_dir())).collect())
}

fn wait_for_program(site: &Site, program: &Program, id: ProcessId) -> Result<()> {
    let Some(ready) = program.ready else { return Ok(()) };
    let said = || agent::tail(&program_log(site, &program.pod), 12);
    let listens = process::wait_until(PROGRAM_LIMIT, || {
        if !id.is_alive() {
            bail!("the program of {} ended while starting:\n{}", program.pod, said());
        }
        Ok(sandbox::listens(id, ready.tcp)?.then_some(()))
    })?;
    ensure!(
        listens.is_some(),
        "{} does not listen on {}:\n{}",
        program.pod,
        ready.tcp,
        said()
    );
    Ok(())
}

/// Where a pod's program writes.
pub fn program_log(site: &Site, pod: &PodName) -> PathBuf {
    site.logs().join(format!("pod-{}.log", pod.underscored()))
}

fn new_uid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path)
        .with_context(|| format!("read {path}"))?
        .trim()
        .to_owned())
}
