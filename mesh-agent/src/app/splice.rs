//! Finds out at start whether flows may be spliced on this kernel, and switches it on; flows go direct without it meanwhile.

use std::sync::Arc;

use crate::config::SpliceMode;
use crate::kernel::ebpf::EbpfKernel;
use crate::kernel::error::KernelError;
use crate::kernel::splice::legs::Legs;
use crate::kernel::splice::{SpliceBoard, SpliceState, SpliceStatus, SpliceSwitch, trial};
use crate::lifecycle::Tasks;
use crate::telemetry::Telemetry;

/// Starts the trial where `mode` wants the splice. What comes of it is told on the board that is returned.
///
/// Errors: the switch cannot be turned off.
pub(super) fn start(
    kernel: &mut EbpfKernel,
    mode: SpliceMode,
    tasks: &Tasks,
    telemetry: &Telemetry,
) -> Result<SpliceBoard, KernelError> {
    let board = SpliceBoard::default();
    let switch = kernel.splice_switch()?;
    match mode {
        SpliceMode::Off => board.set(SpliceStatus::off("the settings say so")),
        SpliceMode::Auto => match kernel.attach_splice() {
            Ok(()) => {
                board.set(SpliceStatus {
                    state: SpliceState::Trying,
                    ..SpliceStatus::default()
                });
                let legs = kernel.attach_legs();
                tasks.spawn(
                    "splice-trial",
                    decide(switch, legs, board.clone(), telemetry.clone()),
                );
            }
            Err(error) => {
                tracing::warn!(%error, "flows are not spliced");
                board.set(SpliceStatus::off(error.to_string()));
            }
        },
    }
    Ok(board)
}

/// Runs the trial on a thread of its own: it blocks for some seconds at most.
async fn decide(
    switch: SpliceSwitch,
    legs: Result<Arc<Legs>, KernelError>,
    board: SpliceBoard,
    telemetry: Telemetry,
) {
    let tried = tokio::task::spawn_blocking(trial::run).await;
    let status = tried.unwrap_or_else(|error| SpliceStatus::off(format!("the trial panicked: {error}")));
    let status = match (status.state, switch.set(status.state == SpliceState::On)) {
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
            legs.allow(telemetry.mesh().leg_bytes());
            String::new()
        }
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let status = SpliceStatus { legs, ..status };
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
    board.set(status);
}
