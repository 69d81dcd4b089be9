//! Where the load goes on one side, and which processes work for it.
//!
//! It must not know what load it is.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::cpu;
use mesh_tests::process::ProcessId;
use mesh_tests::running::Running;

use crate::bench::blocks::Side;
use crate::bench::proxies::load::Load;
use crate::bench::proxies::peer::Chain;
use crate::bench::proxies::workload::Hops;
use crate::bench::proxies::{PROXY_CORE, SERVER_CORE};

/// The namespace of the pods in the mesh.
pub(crate) const MESH: &str = "mesh";
/// That of the pods outside of it.
pub(crate) const PLAIN: &str = "plain";

/// The pod that is asked.
pub(crate) fn server(hops: Hops) -> &'static str {
    match hops {
        Hops::One => "near",
        Hops::Two => "far",
    }
}

/// A way from client to server.
#[derive(Debug)]
pub(crate) struct Way {
    /// The client's pod.
    pub(crate) client: String,
    /// The host that the client names.
    pub(crate) host: String,
    /// The proxies' processes.
    pub(crate) proxies: Vec<ProcessId>,
    /// The server's.
    pub(crate) backend: ProcessId,
    /// The address of the server's pod.
    pub(crate) server: Ipv4Addr,
    side: Side,
}

impl Way {
    /// By way of our agents. The second one works for nobody when client and server are on the first one's node.
    pub(crate) fn ours(lab: &Running, hops: Hops) -> Result<Self> {
        let nodes: &[&str] = match hops {
            Hops::One => &[NEAR],
            Hops::Two => &[NEAR, FAR],
        };
        let agents = nodes.iter().map(|node| lab.agent(node));
        let agents = agents.collect::<Result<Vec<_>>>()?;
        for agent in &agents {
            cpu::keep_to(*agent, PROXY_CORE)?;
        }
        Self::of(lab, Side::Ours, hops, server(hops).to_owned(), agents)
    }

    /// By way of a peer's proxies; the first is in the client's own pod.
    pub(crate) fn theirs(lab: &Running, hops: Hops, chain: &Chain) -> Result<Self> {
        let processes = chain.processes().to_vec();
        Self::of(lab, Side::Theirs, hops, "127.0.0.1".to_owned(), processes)
    }

    fn of(lab: &Running, side: Side, hops: Hops, host: String, proxies: Vec<ProcessId>) -> Result<Self> {
        let namespace = match side {
            Side::Ours => MESH,
            Side::Theirs => PLAIN,
        };
        let pod = format!("{namespace}/{}", server(hops)).parse()?;
        let pod = lab.pod(&pod)?;
        let backend = pod.program.context("the server's pod has no program")?;
        cpu::keep_to(backend, SERVER_CORE)?;
        Ok(Self {
            client: format!("{namespace}/client"),
            host,
            proxies,
            backend,
            server: pod.ipv4,
            side,
        })
    }

    /// Whose proxies these are.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// The port to dial for a load.
    pub(crate) fn port(&self, load: Load) -> u16 {
        match (self.side, load) {
            (Side::Ours, Load::KeepAlive | Load::Connections) => 8080,
            (Side::Ours, Load::Streams) => 8081,
            (Side::Theirs, Load::KeepAlive | Load::Connections) => 15001,
            (Side::Theirs, Load::Streams) => 15002,
        }
    }

    /// What to ask for.
    pub(crate) fn url(&self, load: Load) -> String {
        format!("http://{}:{}/", self.host, self.port(load))
    }

    /// Processor time that the proxies have used so far.
    pub(crate) fn proxy_time(&self) -> Result<Duration> {
        self.proxies.iter().map(|proxy| cpu::used_by(*proxy)).sum()
    }
}

/// The node of clients and of the servers that are near.
pub(crate) const NEAR: &str = "node-a";
/// The other node.
pub(crate) const FAR: &str = "node-b";
