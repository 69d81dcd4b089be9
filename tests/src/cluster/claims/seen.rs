//! What claims about real nodes look at, again and again: an agent's page as its node's administrator reads it.
//!
//! No API server is asked for it, so that it can be seen while there is none. It must not judge; claims do.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent;
use crate::cluster::Cluster;
use crate::process;

/// What the agent of a node says of itself.
pub(super) fn status(cluster: &Cluster, node: &str) -> Result<Value> {
    agent::status(cluster.site(), node)
}

/// Asks until something holds.
pub(super) fn until(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let held = process::wait_until(LIMIT, || Ok(holds()?.then_some(())))?;
    held.with_context(|| format!("it does not come to pass within {LIMIT:?}: {what}"))
}

/// More than a machine with much else to do needs.
const LIMIT: Duration = Duration::from_mins(2);
