//! What changes under a live certificate: the issuer's roots, and the rules beside them.

use tokio::sync::watch;

use super::{Revocations, Roots, TrustRules};

/// Roots and rules. Each clone remembers for itself what it has taken.
#[derive(Debug, Clone)]
pub(super) struct TrustNews {
    roots: watch::Receiver<Roots>,
    rules: watch::Receiver<TrustRules>,
}

impl TrustNews {
    pub(super) fn new(roots: watch::Receiver<Roots>, rules: watch::Receiver<TrustRules>) -> Self {
        Self { roots, rules }
    }

    /// What is revoked, from now on.
    pub(super) fn revocations(&self) -> Revocations {
        Revocations::new(self.rules.clone())
    }

    /// What holds now.
    pub(super) fn take(&mut self) -> (Roots, TrustRules) {
        (
            self.roots.borrow_and_update().clone(),
            self.rules.borrow_and_update().clone(),
        )
    }

    /// Returns when something differs from what was taken; never, when neither can change any more. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.roots.changed() => {}
            Ok(()) = self.rules.changed() => {}
            else => std::future::pending().await,
        }
    }
}
