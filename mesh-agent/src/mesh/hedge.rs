//! When a request that takes long is asked of a second endpoint too, in declared form.

use std::time::Duration;

/// Annotation `mesh-agent.dev/hedge` of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedge {
    /// `percentile`: a try counts as slow when this part of the answers of late, in percent, came sooner; 50 to 99.
    pub percentile: u32,
    /// `minDelay`: no further try begins sooner after the one before it; 1 ms to 1 min.
    pub min_delay: Duration,
    /// `budgetPercent`: further tries in percent of the requests of the last 10 s that may be hedged; 1 to 100.
    pub budget_percent: u32,
    /// `maxAttempts`: tries of one request in all; 2 to 5, as many as gRPC's own hedging allows.
    pub max_attempts: u32,
    /// `minSamples`: nothing is hedged before so many answers of late are known; 10 to 10,000.
    pub min_samples: u32,
    /// `grpc`: its gRPC methods may be called twice.
    pub grpc: bool,
}

impl Default for Hedge {
    fn default() -> Self {
        Self {
            percentile: 95,
            min_delay: Duration::from_millis(5),
            budget_percent: 10,
            max_attempts: 2,
            min_samples: 100,
            grpc: false,
        }
    }
}
