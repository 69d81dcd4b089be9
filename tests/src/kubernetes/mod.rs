//! A real control plane: etcd and kube-apiserver, with service accounts, RBAC and a throwaway PKI.
//!
//! On loopback it is these two alone: whoever uses it plays kubelet, scheduler and controllers, by writing the objects
//! that they would write. Where nodes are to join it there is a [`Reach`], and the controllers and the scheduler run
//! too. It must not know what is tested with it, nor how the programs are built.

pub mod api;
mod arguments;
mod pki;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use self::api::Api;
pub use self::pki::User;
use crate::agent::tail;
use crate::netns;
use crate::process::{self, ProcessId};
use crate::sandbox::{self, Place};

/// The programs that a control plane is made of.
pub const PROGRAMS: [&str; 2] = ["etcd", "kube-apiserver"];
/// The programs that decide, where there are nodes to decide about.
pub const DECIDERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// How nodes reach the API server, and who else is known to it.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Its address, in the network where it runs.
    pub addr: Option<Ipv4Addr>,
    /// Users beside the administrator; each has a token in [`ControlPlane::token`].
    pub users: Vec<User>,
}

/// A control plane, running or not.
#[derive(Debug)]
pub struct ControlPlane {
    /// All that it is lies below this directory.
    dir: PathBuf,
    /// Where its programs run; the machine's own network where there is none.
    place: Option<Place>,
    ports: Ports,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Ports {
    etcd: u16,
    api: u16,
    /// Where others than those on loopback reach the API server.
    reach: Option<Ipv4Addr>,
}

impl ControlPlane {
    /// Makes one below `dir` and waits until it is ready. `programs` are directories to find [`PROGRAMS`] in.
    pub fn up(dir: &Path, place: Option<Place>, programs: &[PathBuf]) -> Result<Self> {
        Self::up_with(dir, place, programs, &Reach::default())
    }

    /// Makes one that nodes can join, controllers and scheduler included.
    pub fn up_with(dir: &Path, place: Option<Place>, programs: &[PathBuf], reach: &Reach) -> Result<Self> {
        fs::create_dir_all(dir.join("bin")).with_context(|| format!("make {}", dir.display()))?;
        let deciders = DECIDERS.iter().filter(|_| reach.addr.is_some());
        for name in PROGRAMS.iter().chain(deciders) {
            let found = programs
                .iter()
                .map(|dir| dir.join(name))
                .find(|path| path.exists());
            let found = found.with_context(|| format!("there is no {name}: cargo xtask kube build"))?;
            // A link, so that whoever looks at the process sees whose it is.
            std::os::unix::fs::symlink(&found, dir.join("bin").join(name))
                .with_context(|| format!("link {}", found.display()))?;
        }
        let addrs: Vec<_> = reach.addr.into_iter().chain([arguments::SERVICE]).collect();
        pki::make(dir, &addrs, &reach.users)?;
        let ports = free_ports(place.as_ref(), reach.addr)?;
        let text = serde_json::to_string(&ports).context("write the ports")?;
        fs::write(dir.join(PORTS), text).context("write the ports")?;
        let plane = Self {
            dir: dir.to_owned(),
            place,
            ports,
        };
        let started = plane.start("etcd", &plane.etcd_arguments());
        let served = started.and_then(|()| plane.start_api_server());
        if let Err(error) = served.and_then(|()| plane.start_deciders()) {
            plane.down()?;
            return Err(error);
        }
        Ok(plane)
    }

    /// The one that was made below `dir` by an earlier command; none where there is none.
    pub fn attach(dir: &Path, place: Option<Place>) -> Result<Option<Self>> {
        let path = dir.join(PORTS);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let ports = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(Some(Self {
            dir: dir.to_owned(),
            place,
            ports,
        }))
    }

    /// Starts the API server, again perhaps, and waits until it is ready.
    pub fn start_api_server(&self) -> Result<()> {
        self.start("kube-apiserver", &self.api_arguments())?;
        let api = self.api();
        let ready = process::wait_until(LIMIT, || {
            self.ensure_alive("kube-apiserver")?;
            self.ensure_alive("etcd")?;
            // Nobody listens yet, or it says what it waits for.
            let answer = api.get("/readyz");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        ready.with_context(|| {
            format!(
                "the api server is not ready:\n{}",
                tail(&self.log("kube-apiserver"), 10)
            )
        })
    }

    fn start_deciders(&self) -> Result<()> {
        for name in DECIDERS.iter().filter(|_| self.ports.reach.is_some()) {
            let config = self.dir.join(format!("{name}.kubeconfig"));
            self.write_kubeconfig(&config, &self.token(name))?;
            self.start(name, &self.decider_arguments(name, &config))?;
        }
        Ok(())
    }

    /// Kills the API server; what it keeps is in etcd.
    pub fn kill_api_server(&self) -> Result<()> {
        self.kill("kube-apiserver")
    }

    /// Ends both programs and removes all that they left.
    pub fn down(&self) -> Result<()> {
        for name in self.programs().rev() {
            self.kill(name)?;
        }
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))
    }

    /// The API as its administrator sees it.
    pub fn api(&self) -> Api<'_> {
        Api::new(self)
    }

    /// The programs that it is made of, in the order of their start.
    pub fn programs(&self) -> impl DoubleEndedIterator<Item = &'static str> {
        let deciders = if self.ports.reach.is_some() {
            DECIDERS.as_slice()
        } else {
            &[]
        };
        PROGRAMS.iter().chain(deciders).copied()
    }

    /// Where the API is.
    pub fn addr(&self) -> SocketAddr {
        let addr = self.ports.reach.unwrap_or(Ipv4Addr::LOCALHOST);
        SocketAddr::new(addr.into(), self.ports.api)
    }

    /// Where its etcd is, which asks nobody who they are.
    pub fn etcd_addr(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.ports.etcd)
    }

    /// The root that the API server's certificate is verified by.
    pub fn root(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The file with the token of the administrator, who may do everything.
    pub fn admin_token(&self) -> PathBuf {
        self.token("admin")
    }

    /// The file with the token of a user, who is named as its [`User::file`] says.
    pub fn token(&self, user: &str) -> PathBuf {
        self.dir.join(pki::token_file(user))
    }

    /// Below it the control plane and its users keep what they have.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a kubeconfig for whoever holds the token in `token_file`, which is read again when it changes.
    pub fn write_kubeconfig(&self, path: &Path, token_file: &Path) -> Result<()> {
        self.write_kubeconfig_at(path, token_file, self.addr())
    }

    /// As [`ControlPlane::write_kubeconfig`], by another address of the place that the API server runs in.
    pub fn write_kubeconfig_at(&self, path: &Path, token_file: &Path, addr: SocketAddr) -> Result<()> {
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{addr}"), "tls-server-name": "127.0.0.1", "certificate-authority": self.root() } }],
            "users": [{ "name": "test", "user": { "tokenFile": token_file } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        fs::write(path, text.to_string()).with_context(|| path.display().to_string())
    }

    /// A command where the control plane runs.
    pub fn command(&self, program: &[String]) -> Result<Command> {
        if let Some(place) = &self.place {
            return place.command(program);
        }
        let (name, arguments) = program.split_first().context("a command has a program")?;
        let mut command = Command::new(name);
        command.args(arguments);
        Ok(command)
    }

    /// True for each program that runs.
    pub fn is_alive(&self, name: &str) -> Result<bool> {
        Ok(self.process(name)?.is_some_and(ProcessId::is_alive))
    }

    fn ensure_alive(&self, name: &str) -> Result<()> {
        ensure!(
            self.is_alive(name)?,
            "{name} has ended:\n{}",
            tail(&self.log(name), 10)
        );
        Ok(())
    }

    fn start(&self, name: &str, arguments: &[String]) -> Result<()> {
        let mut program = vec![self.dir.join("bin").join(name).display().to_string()];
        program.extend_from_slice(arguments);
        let log = self.log(name);
        let mut child = sandbox::start(self.command(&program)?, &log, &log)?;
        let id = ProcessId::of(child.id())?;
        let text = serde_json::to_string(&id).context("write a process id")?;
        fs::write(self.process_file(name), text).context("write a process id")?;
        // Takes its exit status whenever it ends, so that no zombie stays.
        thread::spawn(move || child.wait());
        Ok(())
    }

    fn kill(&self, name: &str) -> Result<()> {
        let Some(id) = self.process(name)? else {
            return Ok(());
        };
        // On SIGTERM the API server would wait for its clients for 20 s.
        id.signal(Signal::SIGKILL)?;
        let ended = process::wait_until(LIMIT, || Ok((!id.is_alive()).then_some(())))?;
        if ended.is_none() {
            bail!("{name} does not end");
        }
        Ok(())
    }

    /// The process of a program, if it was started; it may have ended.
    pub fn process(&self, name: &str) -> Result<Option<ProcessId>> {
        let path = self.process_file(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    fn process_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pid"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

/// Ports that nobody has where the control plane will run; held together, so that they differ.
fn free_ports(place: Option<&Place>, reach: Option<Ipv4Addr>) -> Result<Ports> {
    let find = || {
        // One that an outgoing connection has at another address is free on loopback, and not for who listens at all.
        let listeners = [0; 2].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let [etcd, api] = listeners.map(|listener| -> Result<u16> {
            Ok(listener.context("find a free port")?.local_addr()?.port())
        });
        Ok(Ports {
            etcd: etcd?,
            api: api?,
            reach,
        })
    };
    match place {
        Some(place) => netns::inside(&place.netns, find),
        None => find(),
    }
}

const PORTS: &str = "ports.json";
/// The API server makes its own objects at the first start.
const LIMIT: Duration = Duration::from_mins(1);
