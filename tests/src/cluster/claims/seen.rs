//! What claims about real nodes look at, again and again.
//!
//! It must not judge; claims do.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// Asks until something holds.
pub(super) fn until(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let held = process::wait_until(LIMIT, || Ok(holds()?.then_some(())))?;
    held.with_context(|| format!("it does not come to pass within {LIMIT:?}: {what}"))
}

/// More than a machine with much else to do needs.
const LIMIT: Duration = Duration::from_mins(2);
