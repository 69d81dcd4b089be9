//! The one signal that asks tasks to end.

use tokio_util::sync::CancellationToken;

/// Tells a task that it should finish what it is doing and end. Once requested, it stays requested.
#[derive(Debug, Clone)]
pub struct Stop {
    token: CancellationToken,
}

impl Stop {
    pub(super) fn new(token: CancellationToken) -> Self {
        Self { token }
    }

    /// Returns when the stop is requested, at once if it already was. Cancel-safe.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Whether the stop was requested.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }
}
