//! Ctrl-C: remembered, so that every wait of the lab ends and what was made is taken down by whoever made it.
//!
//! It must not clean up by itself: a signal handler knows nothing of what is half made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

static SEEN: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Remembers SIGINT and SIGTERM from now on; a second one ends the process at once.
pub fn watch() -> Result<()> {
    let seen = SEEN.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(seen))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(seen)))
            .context("watch for SIGINT and SIGTERM")?;
    }
    Ok(())
}

/// True once a signal has been seen.
pub fn seen() -> bool {
    SEEN.get().is_some_and(|seen| seen.load(Ordering::Relaxed))
}

/// Forgets a signal, so that cleaning up is not itself interrupted.
pub fn forget() {
    if let Some(seen) = SEEN.get() {
        seen.store(false, Ordering::Relaxed);
    }
}

/// Fails once a signal has been seen: to be called in every loop that waits.
pub fn check() -> Result<()> {
    if seen() {
        bail!("interrupted");
    }
    Ok(())
}
