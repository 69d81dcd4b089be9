//! What the agent still waits for before it may be called ready.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ready when every guard that was handed out is dropped.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, &'static str>>,
}

/// Holds readiness back until dropped.
#[must_use = "the agent is ready as soon as this is dropped"]
#[derive(Debug)]
pub struct ReadyGuard {
    shared: Arc<Shared>,
    id: u64,
}

impl Readiness {
    /// Nothing is waited for yet, which counts as ready: take the guards before serving `/readyz`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds readiness back under `name` until the guard is dropped.
    pub fn guard(&self, name: &'static str) -> ReadyGuard {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.shared.waiting().insert(id, name);
        ReadyGuard {
            shared: Arc::clone(&self.shared),
            id,
        }
    }

    /// What is still waited for, in the order in which it was asked for; empty when ready.
    pub fn waiting(&self) -> Vec<&'static str> {
        self.shared.waiting().values().copied().collect()
    }

    /// Whether nothing is waited for.
    pub fn is_ready(&self) -> bool {
        self.shared.waiting().is_empty()
    }
}

impl Shared {
    /// Inserting and removing cannot leave the map half changed, so a poisoned lock is still good.
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, &'static str>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_only_when_every_guard_is_dropped() {
        let readiness = Readiness::new();
        let source = readiness.guard("source");
        let kernel = readiness.guard("kernel");
        assert_eq!(readiness.waiting(), ["source", "kernel"]);

        drop(source);
        assert_eq!(readiness.waiting(), ["kernel"]);
        assert!(!readiness.is_ready());

        drop(kernel);
        assert!(readiness.is_ready());
    }

    #[test]
    fn two_guards_of_one_name_both_count() {
        let readiness = Readiness::new();
        let first = readiness.guard("pod");
        let _second = readiness.guard("pod");
        drop(first);
        assert_eq!(readiness.waiting(), ["pod"]);
    }

    #[test]
    fn a_guard_that_a_panicking_thread_held_is_released() {
        let readiness = Readiness::new();
        let guard = readiness.guard("worker");
        let outcome = std::thread::spawn(move || {
            let _held = guard;
            panic!("the worker failed");
        })
        .join();
        assert!(outcome.is_err());
        assert!(readiness.is_ready());
    }
}
