//! How far a client and its HTTP/1.1 connection have come, as those below hyper see it.
//!
//! Place in the walk: beside a connection. Must not know: what is asked.

use std::sync::atomic::{AtomicBool, Ordering};

/// Of one connection. Told and asked by the task that serves it, but for what becomes of its protocol.
#[derive(Debug, Default)]
pub(in crate::proxy::http) struct Progress {
    other_protocol: AtomicBool,
    within_request: AtomicBool,
    behind: AtomicBool,
}

impl Progress {
    /// Client and application have agreed to speak another protocol from here on.
    pub(in crate::proxy::http) fn changes_protocol(&self) {
        self.other_protocol.store(true, Ordering::Release);
    }

    /// Whether they have.
    pub(super) fn is_other_protocol(&self) -> bool {
        self.other_protocol.load(Ordering::Acquire)
    }

    /// The client has sent part of a request, or all of them whole.
    pub(super) fn note_read(&self, is_within_request: bool) {
        self.within_request.store(is_within_request, Ordering::Relaxed);
    }

    /// Something was written that is not flushed, or all of it is.
    pub(super) fn note_written(&self, is_behind: bool) {
        self.behind.store(is_behind, Ordering::Relaxed);
    }

    /// Whether each request that has begun was read whole and all that was written has gone.
    pub(super) fn is_even(&self) -> bool {
        !self.within_request.load(Ordering::Relaxed) && !self.behind.load(Ordering::Relaxed)
    }
}
