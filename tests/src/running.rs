//! A lab that is up, as anybody on the machine can use it: run programs in pods, read agents' pages, change manifests.
//!
//! It must not make or remove anything of the lab itself: that is `lab`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent;
use crate::http::Answer;
use crate::input::PodName;
use crate::metrics::Metrics;
use crate::process::{self, Output, ProcessId};
use crate::sandbox::Place;
use crate::site::Site;
use crate::state::{PodState, State};

/// How long a program run by [`Running::exec`] may take.
pub const EXEC_LIMIT: Duration = Duration::from_mins(1);

/// An agent drains for five seconds.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where it lives.
    pub site: Site,
    /// What it is.
    pub state: State,
}

impl Running {
    /// The lab that another command left up.
    pub fn attach(site: Site) -> Result<Self> {
        let state = State::load(&site)?;
        let state =
            state.with_context(|| format!("no lab {} is up: `cargo xtask lab up DIR` first", site.name()))?;
        Ok(Self { site, state })
    }

    /// A pod of the lab.
    pub fn pod(&self, name: &PodName) -> Result<&PodState> {
        self.state.pods.get(name).with_context(|| {
            let known: Vec<_> = self.state.pods.keys().map(ToString::to_string).collect();
            format!("no pod {name}; there are {}", known.join(", "))
        })
    }

    /// A command that will run inside a pod, in its cgroup, with its network, `/etc/hosts` and environment.
    pub fn command(&self, name: &PodName, program: &[String], cwd: &Path) -> Result<Command> {
        let pod = self.pod(name)?;
        let place = Place {
            cgroup: pod.cgroup.clone(),
            netns: Site::netns_path(&pod.netns),
            mounts_of: Some(pod.holder),
            cwd: cwd.to_owned(),
        };
        let mut command = place.command(program)?;
        let system = [
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ];
        let search = self
            .state
            .tools
            .iter()
            .map(std::path::PathBuf::as_path)
            .chain(system.iter().map(Path::new));
        command.env_clear().env(
            "PATH",
            env::join_paths(search).context("a tool directory has a colon")?,
        );
        command.envs([
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("PYTHONUNBUFFERED", "1"),
            // The programs lie in the source tree.
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("TERM", "dumb"),
        ]);
        command.envs([
            ("POD_NAME", &name.name),
            ("POD_NAMESPACE", &name.namespace),
            ("NODE_NAME", &pod.node),
        ]);
        command
            .env("POD_IP", pod.ipv4.to_string())
            .env("POD_IP6", pod.ipv6.to_string());
        command.env("SCRATCH", self.site.scratch(name));
        Ok(command)
    }

    /// Runs a program inside the pod `namespace/name` to its end, in the directory that the lab was made from.
    pub fn exec(&self, pod: &str, program: &[&str]) -> Result<Output> {
        self.exec_within(EXEC_LIMIT, pod, program)
    }

    /// As [`Running::exec`], with a time limit of its own.
    pub fn exec_within(&self, limit: Duration, pod: &str, program: &[&str]) -> Result<Output> {
        let program: Vec<_> = program.iter().map(|&word| word.to_owned()).collect();
        let mut command = self.command(&pod.parse()?, &program, &self.state.input)?;
        process::run(&mut command, limit).with_context(|| format!("{} in {pod}", program.join(" ")))
    }

    /// The process of a node's agent, the latest one that was started.
    pub fn agent(&self, node: &str) -> Result<ProcessId> {
        let state = State::load(&self.site)?;
        let nodes = &state.as_ref().unwrap_or(&self.state).nodes;
        nodes
            .get(node)
            .copied()
            .flatten()
            .with_context(|| format!("no agent runs on {node}"))
    }

    /// Sends a signal to a node's agent and waits for its end.
    pub fn end_agent(&self, node: &str, signal: Signal) -> Result<()> {
        let agent = self.agent(node)?;
        agent.signal(signal)?;
        let ended = process::wait_until(END_LIMIT, || Ok((!agent.is_alive()).then_some(())))?;
        ended.with_context(|| format!("the agent of {node} does not end by {signal}"))
    }

    /// Starts the agent of a node again and waits until it is ready.
    pub fn start_agent(&self, node: &str) -> Result<()> {
        self.start_agent_unready(node)?;
        self.wait_ready(node)
    }

    /// Starts the agent of a node again; it is not ready yet.
    pub fn start_agent_unready(&self, node: &str) -> Result<()> {
        self.start_agent_with(node, &[])
    }

    /// As [`Running::start_agent_unready`], with more arguments.
    pub fn start_agent_with(&self, node: &str, more: &[String]) -> Result<()> {
        let mut child = agent::start_with(&self.site, node, &self.site.agent_binary(), more)?;
        let id = ProcessId::of(child.id())?;
        // Takes its exit status whenever it ends, so that no zombie stays.
        thread::spawn(move || child.wait());
        let mut state = State::load(&self.site)?.context("the lab has no state")?;
        state.nodes.insert(node.to_owned(), Some(id));
        state.save(&self.site)
    }

    /// An agent that was started beside another one is the node's from now on.
    pub fn is_agent_of(&self, node: &str, agent: ProcessId) -> Result<()> {
        let mut state = State::load(&self.site)?.context("the lab has no state")?;
        state.nodes.insert(node.to_owned(), Some(agent));
        state.save(&self.site)
    }

    /// Waits until the agent of a node is ready.
    pub fn wait_ready(&self, node: &str) -> Result<()> {
        agent::wait_ready(&self.site, node, self.agent(node)?)
    }

    /// A page of a node's agent.
    pub fn page(&self, node: &str, page: &str) -> Result<Answer> {
        agent::page(&self.site, node, page)
    }

    /// What a node's agent says of itself.
    pub fn status(&self, node: &str) -> Result<Value> {
        agent::status(&self.site, node)
    }

    /// The metrics of a node's agent.
    pub fn metrics(&self, node: &str) -> Result<Metrics> {
        agent::metrics(&self.site, node)
    }

    /// Reads a manifest file as the agents see it.
    pub fn manifest(&self, file: &str) -> Result<String> {
        let path = self.site.manifests().join(file);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Replaces or adds a manifest file at once.
    pub fn put_manifest(&self, file: &str, text: &str) -> Result<()> {
        let staged = self.site.staging().join(file);
        fs::write(&staged, text).with_context(|| format!("write {}", staged.display()))?;
        fs::rename(&staged, self.site.manifests().join(file)).with_context(|| format!("put {file} in place"))
    }

    /// Removes a manifest file.
    pub fn remove_manifest(&self, file: &str) -> Result<()> {
        let path = self.site.manifests().join(file);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Waits until every agent that lives and reads manifests serves them as they are now, in the kernel too.
    ///
    /// Versions alone do not tell: the one that comes next may be that of an earlier change.
    pub fn settled(&self, within: Duration) -> Result<()> {
        let wanted = self.digest()?;
        let serves = |node: &String| -> Result<bool> {
            let status = self.status(node)?;
            if status.get("api_server").is_some_and(|server| !server.is_null()) {
                return Ok(true);
            }
            Ok(status.get("manifests_digest").and_then(Value::as_str) == Some(wanted.as_str()))
        };
        let lives = |node: &&String| self.agent(node).is_ok_and(ProcessId::is_alive);
        for node in self.state.nodes.keys().filter(lives) {
            process::wait_until(within, || Ok(serves(node)?.then_some(())))?
                .with_context(|| format!("{node} does not serve the manifests as they are, {wanted}"))?;
        }
        Ok(())
    }

    /// What an agent calls the manifests as they are now.
    fn digest(&self) -> Result<String> {
        let mut check = Command::new(self.site.agent_binary());
        let checked = process::run(check.arg("check").arg(self.site.manifests()), EXEC_LIMIT)?;
        let mut lines = checked.stdout.lines();
        let digest = lines.find_map(|line| line.strip_prefix("digest "));
        digest
            .map(str::to_owned)
            .with_context(|| format!("no digest: {}", checked.stderr))
    }
}
