//! Finds out at start whether flows may be spliced on this kernel, and switches it on; flows go direct without it meanwhile.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::app::lock::Leaving;
use crate::config::SpliceMode;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::error::KernelError;
use crate::kernel::splice::legs::Legs;
use crate::kernel::splice::{SpliceBoard, SpliceState, SpliceStatus, SpliceSwitch, trial};
use crate::lifecycle::{Stop, Tasks};
use crate::telemetry::Telemetry;

/// What the splice is decided with.
pub(super) struct Splicing {
    pub(super) switch: SpliceSwitch,
    pub(super) enrolment: Arc<Mutex<Enrolment>>,
    /// The state directory: nothing is attached while an agent that was succeeded still has its own attached there.
    pub(super) state_dir: PathBuf,
    pub(super) telemetry: Telemetry,
}

impl Splicing {
    /// Starts the trial where `mode` wants the splice, and forgets the agent before once it has ended. What comes of it is told on the board that is returned.
    pub(super) fn start(self, mode: SpliceMode, tasks: &Tasks) -> SpliceBoard {
        let board = SpliceBoard::default();
        match mode {
            SpliceMode::Off => {
                board.set(SpliceStatus::off("the settings say so"));
                let stop = tasks.stop();
                tasks.spawn("predecessors", async move {
                    let is_alone = tokio::select! {
                        is_alone = self.alone() => is_alone,
                        () = stop.requested() => return,
                    };
                    if let Err(error) = is_alone {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "cannot find out whether the agent before has ended"
                        );
                    }
                });
            }
            SpliceMode::Auto => {
                board.set(SpliceStatus {
                    state: SpliceState::Trying,
                    ..SpliceStatus::default()
                });
                tasks.spawn("splice-trial", self.decide(board.clone(), tasks.stop()));
            }
        }
        board
    }

    /// Runs the trial on a thread of its own: it blocks for some seconds at most.
    async fn decide(self, board: SpliceBoard, stop: Stop) {
        let attached = tokio::select! {
            attached = self.attach() => attached,
            () = stop.requested() => return,
        };
        let legs = match attached {
            Ok(legs) => legs,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "flows are not spliced");
                return board.set(SpliceStatus::off(format!("{error:#}")));
            }
        };
        // Once the stop is requested the switch may be the next agent's.
        let tried = tokio::select! {
            biased;
            () = stop.requested() => return,
            tried = tokio::task::spawn_blocking(trial::run) => tried,
        };
        let status = tried.unwrap_or_else(|error| SpliceStatus::off(format!("the trial panicked: {error}")));
        let status = match (status.state, self.switch.set(status.state == SpliceState::On)) {
            (_, Ok(())) => status,
            (_, Err(error)) => SpliceStatus {
                state: SpliceState::Off,
                why: error.to_string(),
                ..status
            },
        };
        let is_on = status.state == SpliceState::On;
        let legs = match legs {
            Ok(legs) if is_on => {
                legs.allow(self.telemetry.mesh().leg_bytes());
                String::new()
            }
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        tell(&SpliceStatus { legs, ..status }, &self.telemetry, &board);
    }

    /// Once nobody else has attached the same: each read would be seen twice.
    async fn attach(&self) -> anyhow::Result<Result<Arc<Legs>, KernelError>> {
        self.alone().await?;
        Ok(self.enrolment.lock().splice()?)
    }

    async fn alone(&self) -> anyhow::Result<()> {
        Leaving::nobody(&self.state_dir).await?;
        self.enrolment.lock().alone();
        Ok(())
    }
}

fn tell(status: &SpliceStatus, telemetry: &Telemetry, board: &SpliceBoard) {
    let is_on = status.state == SpliceState::On;
    telemetry.mesh().splice(is_on);
    if is_on {
        tracing::info!(
            checks = status.checks.len(),
            why_not_legs = status.legs,
            "flows are spliced"
        );
    } else {
        tracing::warn!(why = status.why, "flows are not spliced");
    }
    for check in &status.checks {
        let failure = check.failure.as_deref();
        tracing::debug!(check.claim, failure, check.took_ms, "trial of the splice");
    }
    board.set(status.clone());
}
