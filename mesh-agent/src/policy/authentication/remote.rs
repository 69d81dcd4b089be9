//! Keys that somebody else publishes, as they were fetched last.
//!
//! Place in the walk: outlives snapshots, so that a change of configuration forgets no key. Must not know: who fetches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use super::keys::KeySet;
use crate::mesh::policy::request_authentication::KeySource;

/// The keys of one source, if they were ever fetched.
#[derive(Debug)]
pub struct RemoteKeys {
    source: KeySource,
    current: ArcSwapOption<KeySet>,
    is_missed: AtomicBool,
}

impl RemoteKeys {
    pub(super) fn new(source: KeySource) -> Self {
        Self {
            source,
            current: ArcSwapOption::empty(),
            is_missed: AtomicBool::new(false),
        }
    }

    /// Where they are published.
    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// Puts newly fetched keys in force; tokens of keys that are gone are refused from now on.
    pub fn replace(&self, keys: KeySet) {
        self.current.store(Some(Arc::new(keys)));
    }

    /// Whether a token asked for a key that is not here since the last call.
    pub fn take_missed(&self) -> bool {
        self.is_missed.swap(false, Ordering::Relaxed)
    }

    pub(super) fn missed(&self) {
        self.is_missed.store(true, Ordering::Relaxed);
    }

    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.current.load_full()
    }
}
