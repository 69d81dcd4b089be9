//! The cell that holds the current snapshot.
//!
//! Place in the walk: readers load it once a connection or request; `control` publishes. Must not know: what a
//! snapshot holds, beyond its version.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::Snapshot;

/// One current snapshot: reading never waits, and who wants to be told of a new one subscribes.
pub struct SnapshotCell {
    current: ArcSwap<Snapshot>,
    published: watch::Sender<u64>,
    keys_missed: Notify,
}

impl SnapshotCell {
    /// A cell that holds a first snapshot.
    pub fn new(first: Snapshot) -> Self {
        let published = watch::Sender::new(first.version());
        Self {
            current: ArcSwap::from_pointee(first),
            published,
            keys_missed: Notify::new(),
        }
    }

    /// The current snapshot; it stays whole for as long as it is held.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces the current snapshot, then wakes the subscribers.
    pub fn publish(&self, snapshot: Snapshot) {
        let version = snapshot.version();
        self.current.store(Arc::new(snapshot));
        self.published.send_replace(version);
    }

    /// The version that was published last. Waiting for a change is cancel-safe; versions may be skipped.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Tells whoever fetches public keys that a token asked for one that is not here. Never waits.
    pub fn keys_missed(&self) {
        self.keys_missed.notify_one();
    }

    /// Waits until [`Self::keys_missed`] was called since the last time; for one waiter. Cancel-safe.
    pub async fn key_wanted(&self) {
        self.keys_missed.notified().await;
    }
}

impl fmt::Debug for SnapshotCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotCell")
            .field("version", &self.load().version())
            .finish_non_exhaustive()
    }
}
