//! Suites that are programs of the lab: run in the client's pod, they print their outcomes as JSON.
//!
//! It must not know what they try.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::running::Running;

use crate::conformance::grpc_js;
use crate::conformance::outcome::Outcome;

/// h2spec, whose report a program turns into outcomes.
pub(crate) fn h2spec(lab: &Running) -> Result<Vec<Outcome>> {
    outcomes(lab, &["python3", "../programs/h2spec.py", "h2c", "8081"])
}

/// gRPC.
pub(crate) fn grpc(lab: &Running) -> Result<Vec<Outcome>> {
    outcomes(
        lab,
        &["python3", "../programs/grpc_interop_client.py", "grpc:50051"],
    )
}

/// gRPC of another make.
pub(crate) fn grpc_js(lab: &Running) -> Result<Vec<Outcome>> {
    let modules = grpc_js::modules().display().to_string();
    let program = ["node", "../programs/grpc_js_client.js", "grpc:50051", &modules];
    outcomes(lab, &program)
}

/// WebSocket.
pub(crate) fn websocket(lab: &Running) -> Result<Vec<Outcome>> {
    outcomes(lab, &["python3", "../programs/ws_cases.py", "ws", "8090"])
}

fn outcomes(lab: &Running, program: &[&str]) -> Result<Vec<Outcome>> {
    let output = lab.exec_within(LIMIT, CLIENT, program)?.success()?;
    serde_json::from_str(&output.stdout).context("what the suite's program says")
}

/// The pod from which everything is tried.
pub(crate) const CLIENT: &str = "conformance/client";
/// How long a suite may take.
pub(crate) const LIMIT: Duration = Duration::from_mins(10);
