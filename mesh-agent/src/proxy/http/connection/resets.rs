//! Clients that open streams only to reset them: rapid reset, CVE-2023-44487.
//!
//! Place in the walk: round each request of a connection. Must not know: what is asked.
//!
//! h2 ends a connection whose streams are reset before anybody took them; but who takes each at once never sees many of those.
//! So the connection ends, too, when most of its requests are given up soon, as Envoy has it
//! (`overload.premature_reset_total_stream_count`, `overload.premature_reset_min_stream_lifetime_seconds`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Resets {
    opened: AtomicU64,
    premature: AtomicU64,
    over: Notify,
}

/// A request that is not answered yet; dropped when its client gives it up.
#[derive(Debug)]
pub(super) struct Unanswered {
    resets: Arc<Resets>,
    since: Instant,
    is_answered: bool,
}

impl Resets {
    /// A request has come.
    pub(super) fn opened(self: &Arc<Self>) -> Unanswered {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Unanswered {
            resets: Arc::clone(self),
            since: Instant::now(),
            is_answered: false,
        }
    }

    /// Completes when more than half of at least [`MANY`] requests were given up within a second. Cancel-safe.
    pub(super) async fn are_too_many(&self) {
        self.over.notified().await;
    }

    fn given_up(&self) {
        let premature = self.premature.fetch_add(1, Ordering::Relaxed) + 1;
        let opened = self.opened.load(Ordering::Relaxed);
        if opened >= MANY && premature * 2 > opened {
            self.over.notify_one();
        }
    }
}

impl Unanswered {
    /// Its answer has begun.
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.is_answered && self.since.elapsed() < SOON {
            self.resets.given_up();
        }
    }
}

/// Requests of a connection before it is judged (Envoy's default).
const MANY: u64 = 500;
/// Who waits longer than this for an answer may give it up (Envoy's default).
const SOON: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    async fn is_over(answered: u64, given_up: u64, after: Duration) -> bool {
        let resets = Arc::new(Resets::default());
        for _ in 0..answered {
            resets.opened().answered();
        }
        for _ in 0..given_up {
            let unanswered = resets.opened();
            advance(after).await;
            drop(unanswered);
        }
        resets.are_too_many().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_most_of_many_requests_were_given_up_soon() {
        for (answered, given_up, milliseconds, expected) in [
            (0, 499, 1, false),
            (0, 500, 1, true),
            (499, 499, 1, false),
            (499, 500, 1, true),
            (0, 5000, 1000, false),
        ] {
            let found = is_over(answered, given_up, Duration::from_millis(milliseconds)).await;
            assert_eq!(found, expected, "{answered} {given_up} {milliseconds}");
        }
    }
}
