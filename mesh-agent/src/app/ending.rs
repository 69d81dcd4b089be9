//! The end of an agent: it is told to, hands its node over where another agent waits for it, and lets connections end.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::lock::{self, Leaving, StateLock, Succession};
use crate::config::Config;
use crate::lifecycle::Tasks;

/// Hears the signals that tell an agent to end.
#[derive(Debug)]
pub(super) struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

/// Held until the agent ends.
#[derive(Debug)]
pub(super) enum Held {
    /// Nobody took over: the node is this agent's until then.
    Node(#[expect(dead_code, reason = "held for its drop")] StateLock),
    /// Another agent serves.
    Nothing(#[expect(dead_code, reason = "held for its drop")] Leaving),
}

impl Ending {
    /// From now on no such signal ends the process by itself.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
        })
    }

    /// Waits for one. Cancel-safe.
    pub(super) async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: ending"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: ending"),
        }
    }
}

/// Hands the node over where an agent waits that is prepared. `owning` are the tasks that only one agent may run.
///
/// They end first: this agent writes nothing to the kernel any more, and goes on accepting and serving on the listeners that
/// it has. Whatever fails here ends as if nobody had waited.
pub(super) async fn hand_over(config: &Config, lock: StateLock, owning: &Tasks) -> Held {
    let dir = &config.state_dir;
    match lock::is_awaited(dir) {
        Ok(true) => {}
        Ok(false) => return Held::Node(lock),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot find out whether another agent waits"
            );
            return Held::Node(lock);
        }
    }
    owning.request_stop();
    if !owning.joined(FREEZE).await {
        tracing::warn!("the node cannot be let go of in time, and is not handed over");
        return Held::Node(lock);
    }
    // Before the lock is let go of: who takes over must know that somebody splices still.
    let leaving = match Leaving::say(dir) {
        Ok(leaving) => leaving,
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the node is not handed over");
            return Held::Node(lock);
        }
    };
    tracing::info!("handing the node over to the agent that waits for it");
    match lock.hand_over(dir).await {
        Ok(Succession::Taken) => {
            tracing::info!("another agent serves the node");
            // Handshakes that were under way with the listeners of this one end there.
            tokio::time::sleep(LINGER).await;
            Held::Nothing(leaving)
        }
        Ok(Succession::Lost(lock)) => {
            tracing::error!(
                "the agent that waited did not take over; the node's pods are refused until one does"
            );
            Held::Node(lock)
        }
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "cannot find out whether another agent serves"
            );
            Held::Nothing(leaving)
        }
    }
}

impl Held {
    /// Whether another agent serves the node.
    pub(super) fn is_succeeded(&self) -> bool {
        matches!(self, Self::Nothing(_))
    }
}

/// Lets what is under way end, within `limit`.
pub(super) async fn drain(tasks: &Tasks, limit: Duration) {
    tracing::info!("draining");
    tasks.request_stop();
    if !tasks.joined(limit).await {
        tracing::warn!(
            left = tasks.active(),
            "connections did not end within the drain time and are closed"
        );
    }
}

/// What the tasks of an owner may take to end: a configuration that just arrived waits for certificates that long.
const FREEZE: Duration = Duration::from_secs(5);
/// Some round trips between nodes, and what a busy machine makes of them.
const LINGER: Duration = Duration::from_secs(1);
