//! `connectionPool` and `retryBudget` of a `trafficPolicy`: what may be under way to an upstream, and how its connections are
//! used, as plain data.
//!
//! Place in the walk: part of [`super::traffic`]. Must not know: connections, counts.

use std::num::NonZeroU32;
use std::time::Duration;

/// What may be under way to an upstream from this node, and how long its connections may last; what is not written is
/// not bounded by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `tcp.maxConnections`.
    pub connections: Option<u32>,
    /// `http.http1MaxPendingRequests`: requests that wait for a connection to be opened.
    pub pending: Option<u32>,
    /// `http.http2MaxRequests`, which is about both versions of HTTP.
    pub requests: Option<u32>,
    /// `http.maxRetries`: requests that are being tried again.
    pub retries: Option<u32>,
    /// `retryBudget`, which stands instead of `retries`.
    pub retry_share: Option<RetryShare>,
    /// `tcp.connectTimeout`: for a TCP connect and a TLS handshake together. The agent's own timeout holds besides.
    pub connect_timeout: Option<Duration>,
    /// `tcp.idleTimeout`: of an opaque connection that is silent both ways, instead of the agent's.
    pub opaque_idle: Option<Duration>,
    /// `tcp.maxConnectionDuration`, of opaque connections.
    pub opaque_duration: Option<Duration>,
    /// How HTTP connections are used again.
    pub reuse: Reuse,
    /// `http.h2UpgradePolicy: UPGRADE`: a port that says HTTP of either version is spoken to in HTTP/2.
    pub upgrades: bool,
}

impl Limits {
    /// Whether something is written that the agent must see each opaque connection for.
    pub fn see_connections(&self) -> bool {
        self.connections.is_some()
            || self.connect_timeout.is_some()
            || self.opaque_idle.is_some()
            || self.opaque_duration.is_some()
    }
}

/// How an HTTP connection that the client's agent has opened is used for further requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Reuse {
    /// `http.idleTimeout`: closed when no request was under way on it for so long, instead of the agent's own time.
    pub idle: Option<Duration>,
    /// `http.maxRequestsPerConnection`: closed when it has carried so many.
    pub requests: Option<NonZeroU32>,
    /// `http.maxConcurrentStreams`: of HTTP/2, another one is opened for more.
    pub streams: Option<NonZeroU32>,
}

/// `retryBudget`: how many of the requests that are under way may be further attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryShare {
    /// `percent`, in thousandths of a percent.
    pub percent_milli: u32,
    /// `minRetryConcurrency`: so many in any case.
    pub least: u32,
}

impl RetryShare {
    /// How many further attempts there may be while so many requests are under way.
    pub fn most(&self, requests: usize) -> usize {
        let percent_milli = usize::try_from(self.percent_milli).unwrap_or(usize::MAX);
        let least = usize::try_from(self.least).unwrap_or(usize::MAX);
        (requests.saturating_mul(percent_milli) / WHOLE_MILLI).max(least)
    }
}

/// A hundred percent.
const WHOLE_MILLI: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_what_is_under_way_is_granted_and_a_floor() {
        let share = RetryShare {
            percent_milli: 20_000,
            least: 3,
        };
        for (requests, most) in [(0, 3), (15, 3), (20, 4), (104, 20), (1000, 200)] {
            assert_eq!(share.most(requests), most, "{requests}");
        }
    }
}
