//! How many further attempts at a Service port there may be.
//!
//! Place in the walk: asked when a request failed that may be tried again. Must not know: requests, endpoints.

use std::time::Instant;

use super::upstream::Upstream;

impl Upstream {
    /// Counts a request that may be tried again.
    pub fn may_try_again(&self, now: Instant) {
        let budget = self.breakers().vitals().retries();
        budget.request(&self.policy.retries.unwrap_or_default(), now);
    }

    /// Whether one more attempt is granted; it is counted if so.
    pub fn grants_attempt(&self, now: Instant) -> bool {
        // A share of what is under way stands instead of the default, not of what Gateway API's policy says.
        if self.policy.limits.retry_share.is_some() && self.policy.retries.is_none() {
            return true;
        }
        let budget = self.breakers().vitals().retries();
        budget.withdraw(&self.policy.retries.unwrap_or_default(), now)
    }

    /// Whether a request that is granted no more attempts must be refused: where Gateway API's policy says how many there
    /// may be, it says this too. Elsewhere the last answer is as good.
    pub fn refuses_over_budget(&self) -> bool {
        self.policy.retries.is_some()
    }
}
