//! What stands in an agent's place on a node that the mesh has left: a process that says so, until it is ended.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::AdminServer;
use crate::lifecycle::{Readiness, Tasks};

/// Serves `/livez` and `/readyz`, and nothing else, until SIGTERM or SIGINT. Whoever waits for the pods of a DaemonSet to
/// be ready waits in this way for the nodes to be rid of the mesh.
///
/// Errors: somebody has the address, an agent for instance.
pub fn stay(admin_addr: SocketAddr) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let tasks = Tasks::new();
        AdminServer::bind(admin_addr, Readiness::new()).await?.run(&tasks);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tasks.request_stop();
        Ok(())
    })
}
