//! The CA service of a lab: `mesh-agent ca` on one of its nodes, and what the agents of all nodes need to use it.
//!
//! It must not know more of the service than an operator does.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::addresses::fabric_ipv4;
use crate::http;
use crate::metrics::Metrics;
use crate::process::{self, ProcessId};
use crate::running::Running;
use crate::sandbox;
use crate::site::Site;

/// How long the certificates of the lab's CA live: the least that it signs for.
pub const LIFE: Duration = Duration::from_secs(30);

const LIMIT: Duration = Duration::from_secs(20);

/// The CA service of a lab, running or not.
#[derive(Debug)]
pub struct Authority<'l> {
    lab: &'l Running,
    /// On which it runs: the lab's first.
    node: String,
    /// How often there is one already.
    ordinal: u16,
}

impl<'l> Authority<'l> {
    /// The service of this lab.
    pub fn of(lab: &'l Running) -> Result<Self> {
        let node = lab.state.nodes.keys().next().context("the lab has no node")?;
        Ok(Self {
            lab,
            node: node.clone(),
            ordinal: 0,
        })
    }

    /// Another service beside it, with ports, keys and a log of its own.
    pub fn another(lab: &'l Running) -> Result<Self> {
        Ok(Self {
            ordinal: 1,
            ..Self::of(lab)?
        })
    }

    /// The node that it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Where agents reach it.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::new(fabric_ipv4(1).into(), 15012 + 100 * self.ordinal)
    }

    /// Everything of the service lies below this directory.
    pub fn dir(&self) -> PathBuf {
        self.lab.site.run_dir().join(self.named("ca-service"))
    }

    /// The directory of its keys.
    pub fn keys(&self) -> PathBuf {
        self.dir().join("keys")
    }

    /// All roots that it names.
    pub fn bundle(&self) -> PathBuf {
        self.keys().join("bundle.pem")
    }

    /// The token of a node's agent.
    pub fn token(&self, node: &str) -> PathBuf {
        self.dir().join("tokens").join(node)
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.lab.site.logs().join(self.named("ca") + ".stderr")
    }

    /// Starts it and waits until it is ready.
    pub fn start(&self) -> Result<()> {
        fs::create_dir_all(self.dir().join("tokens")).context("make the directory of node tokens")?;
        for node in self.lab.state.nodes.keys() {
            let path = self.token(node);
            if !path.exists() {
                let words = [(); 4].map(|()| format!("{:016x}", rand_word()));
                let token = words.concat();
                fs::write(&path, token).with_context(|| format!("write {}", path.display()))?;
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            }
        }
        let path = |path: &Path| path.display().to_string();
        self.launch(&[
            ("--node-tokens", path(&self.dir().join("tokens"))),
            ("--manifests", path(&self.lab.site.manifests())),
        ])?;
        self.wait_ready()
    }

    /// Starts it, with what else its command line says; an empty value is a flag without one.
    pub fn launch(&self, more: &[(&str, String)]) -> Result<()> {
        fs::create_dir_all(self.keys()).context("make the directory of keys")?;
        let path = |path: &Path| path.display().to_string();
        let mut program = vec![path(&self.lab.site.agent_binary()), "ca".to_owned()];
        for (flag, value) in [
            ("--listen", self.addr().to_string()),
            ("--names", self.addr().ip().to_string()),
            ("--ca-dir", path(&self.keys())),
            ("--max-ttl-s", LIFE.as_secs().to_string()),
            ("--admin-addr", self.admin().to_string()),
        ] {
            program.extend([flag.to_owned(), value]);
        }
        for (flag, value) in more {
            program.push((*flag).to_owned());
            program.extend((!value.is_empty()).then(|| value.clone()));
        }
        let place = sandbox::observer(&self.lab.site, &self.lab.site.node_netns(&self.node));
        let mut child = sandbox::start(place.command(&program)?, &self.log(), &self.log())?;
        fs::write(self.dir().join("pid"), child.id().to_string())?;
        // Takes its exit status whenever it ends, so that no zombie stays.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) -> Result<()> {
        let id = self.process()?;
        let ready = process::wait_until(LIMIT, || {
            ensure!(
                id.is_alive(),
                "the ca ended:\n{}",
                crate::agent::tail(&self.log(), 8)
            );
            Ok(self
                .page("/readyz")
                .is_ok_and(|answer| answer.status == 200)
                .then_some(()))
        })?;
        ready.with_context(|| format!("the ca is not ready:\n{}", crate::agent::tail(&self.log(), 8)))
    }

    /// The process that was started last.
    pub fn process(&self) -> Result<ProcessId> {
        let pid = fs::read_to_string(self.dir().join("pid")).context("the ca was not started")?;
        ProcessId::of(pid.parse().context("pid of the ca")?)
    }

    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        let id = self.process()?;
        id.signal(Signal::SIGKILL)?;
        process::wait_until(LIMIT, || Ok((!id.is_alive()).then_some(())))?.context("the ca does not end")
    }

    /// Makes another root of the mesh in a directory of its own.
    pub fn make_root(&self, dir: &Path) -> Result<()> {
        let mut command = Command::new(self.lab.site.agent_binary());
        command.args(["ca", "--make-root", "--ca-dir"]).arg(dir);
        process::run(&mut command, LIMIT)?.success().map(drop)
    }

    /// What an agent's command line needs in order to ask it.
    pub fn agent_arguments(&self, node: &str) -> Vec<String> {
        [
            "--ca-addr".to_owned(),
            self.addr().to_string(),
            "--ca-root-file".to_owned(),
            self.bundle().display().to_string(),
            "--ca-token-file".to_owned(),
            self.token(node).display().to_string(),
        ]
        .into()
    }

    /// What it counts.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.page("/metrics")?.body)
    }

    /// A page of its admin server.
    pub fn page(&self, page: &str) -> Result<http::Answer> {
        http::get(
            &Site::netns_path(&self.lab.site.node_netns(&self.node)),
            self.admin(),
            page,
        )
    }

    fn admin(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15014 + 100 * self.ordinal)
    }

    fn named(&self, what: &str) -> String {
        if self.ordinal == 0 {
            what.to_owned()
        } else {
            format!("{what}-{}", self.ordinal)
        }
    }
}

/// Sixty-four bits that nobody can guess; the standard library seeds each of its hash states anew.
fn rand_word() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}
