//! What changes under a live certificate: the issuer's roots and other meshes, and the rules beside them.

use tokio::sync::watch;

use super::{Federation, Issuer, Revocations, Roots, TrustRules};

/// Roots and rules. Each clone remembers for itself what it has taken.
#[derive(Debug, Clone)]
pub(super) struct TrustNews {
    roots: watch::Receiver<Roots>,
    rules: watch::Receiver<TrustRules>,
    pushed: watch::Receiver<Federation>,
}

impl TrustNews {
    /// What the issuer says, and the settings.
    pub(super) fn new(issuer: &dyn Issuer, rules: watch::Receiver<TrustRules>) -> Self {
        let nobody = || watch::channel(Federation::default()).1;
        Self {
            roots: issuer.roots(),
            rules,
            pushed: issuer.federation().unwrap_or_else(nobody),
        }
    }

    /// What is revoked, from now on.
    pub(super) fn revocations(&self) -> Revocations {
        Revocations::new(self.rules.clone())
    }

    /// Whether something differs from what was taken.
    pub(super) fn is_pending(&self) -> bool {
        // A channel that is closed says nothing more.
        [
            self.roots.has_changed(),
            self.rules.has_changed(),
            self.pushed.has_changed(),
        ]
        .into_iter()
        .any(|changed| changed.unwrap_or(false))
    }

    /// What holds now.
    pub(super) fn take(&mut self) -> (Roots, TrustRules) {
        let mut rules = self.rules.borrow_and_update().clone();
        rules.pushed = self.pushed.borrow_and_update().clone();
        (self.roots.borrow_and_update().clone(), rules)
    }

    /// Returns when something differs from what was taken; never, when none can change any more. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.roots.changed() => {}
            Ok(()) = self.rules.changed() => {}
            Ok(()) = self.pushed.changed() => {}
            else => std::future::pending().await,
        }
    }
}
