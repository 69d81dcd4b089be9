//! What Gateway API says of traffic to a Service, whichever route leads there.
//!
//! Place in the walk: translation writes it, a snapshot settles it for each Service. Must not know: endpoints, routes.

use std::sync::Arc;
use std::time::Duration;

use crate::mesh::facts::ObjectMeta;
use crate::mesh::route::SessionPersistence;
use crate::mesh::service::ServiceName;

/// Gateway API's `XBackendTrafficPolicy`, as far as it has an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTrafficPolicy {
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// `targetRefs`: field, and Service of its own namespace.
    pub targets: Vec<(Arc<str>, ServiceName)>,
    /// `retryConstraint`.
    pub retries: Option<RetryConstraint>,
    /// `sessionPersistence`.
    pub session: Option<SessionPersistence>,
}

/// `retryConstraint` (GEP-3388): how many further attempts a destination may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryConstraint {
    /// `budget.percent` of the requests,
    pub percent: u32,
    /// of the last `budget.interval`.
    pub interval: Duration,
    /// `minRetryRate.count`: so many are always granted,
    pub min_count: u32,
    /// in each `minRetryRate.interval`.
    pub min_interval: Duration,
}

impl Default for RetryConstraint {
    /// The API's.
    fn default() -> Self {
        Self {
            percent: 20,
            interval: Duration::from_secs(10),
            min_count: 10,
            min_interval: Duration::from_secs(1),
        }
    }
}
