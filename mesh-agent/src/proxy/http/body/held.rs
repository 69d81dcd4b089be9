//! What bodies may hold of the agent's memory that wait for slow readers, by the pod.
//!
//! A reader that asks for more before it is there holds nothing. One that was given a part and asks for no more lets the
//! windows and buffers behind it fill: it holds a share, which is as much as they take. So what all shares of a pod are
//! together bounds what it can make the agent hold. Must not know: what is in a body, what becomes of one without a share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body::SizeHint;

use crate::proxy::pods::ServedPod;
use crate::telemetry::Direction;
use crate::transport::http::{H1_BUFFER, STREAM_WINDOW};

/// Bytes that bodies of one pod, and to it, may hold.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Held(AtomicU64);

impl Held {
    /// Whether there is no room for another body that may stand still.
    pub(in crate::proxy::http) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) > MAX_HELD - SHARE
    }

    /// Whether there was room for so many bytes, which are taken then.
    pub(in crate::proxy) fn take(&self, bytes: u64) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= MAX_HELD;
        if !fits {
            self.give(bytes);
        }
        fits
    }

    /// Gives so many bytes back.
    pub(in crate::proxy) fn give(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(in crate::proxy) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one body holds at the moment.
#[derive(Debug)]
pub(in crate::proxy::http) struct Share {
    pod: Arc<ServedPod>,
    direction: Direction,
    taken: u64,
}

impl Share {
    /// Of a body that nobody has asked for yet.
    pub(in crate::proxy::http) fn new(pod: &Arc<ServedPod>, direction: Direction) -> Self {
        Self {
            pod: Arc::clone(pod),
            direction,
            taken: 0,
        }
    }

    /// The reader waits: nothing is left of what was sent.
    pub(in crate::proxy::http) fn caught_up(&mut self) {
        if self.taken > 0 {
            self.pod.held.give(self.taken);
            self.taken = 0;
        }
    }

    /// The reader may stand still from now on, with as much before it as `left` says. Whether there is room for that.
    pub(in crate::proxy::http) fn may_stand_still(&mut self, left: &SizeHint) -> bool {
        if self.taken > 0 {
            return true;
        }
        let most = left.upper().unwrap_or(u64::MAX).min(SHARE);
        if most <= SMALL {
            return true;
        }
        let has_room = self.pod.held.take(most);
        if has_room {
            self.taken = most;
        }
        has_room
    }

    /// The pod that it is of, and which way its body's request went.
    pub(in crate::proxy::http) fn owner(&self) -> (&Arc<ServedPod>, Direction) {
        (&self.pod, self.direction)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.caught_up();
    }
}

/// What all bodies of one pod may hold: some 1,300 that stand still.
pub(in crate::proxy) const MAX_HELD: u64 = 512 << 20;
/// What a body that stands still holds at most, all buffers counted: the window of its stream where it comes by HTTP/2,
/// and on the way out a read of HTTP/1.1, and what is begun with.
pub(in crate::proxy) const SHARE: u64 = widen(STREAM_WINDOW) + 2 * widen(H1_BUFFER);
/// A body of no more is not counted: 16,384 requests, as many as a pod may have, hold 256 MiB of such.
const SMALL: u64 = 16 * 1024;

const fn widen(bytes: u32) -> u64 {
    #[expect(clippy::as_conversions, reason = "const, and it widens")]
    {
        bytes as u64
    }
}
