//! What Gateway API says of traffic to a Service, whichever route leads there.
//!
//! Place in the walk: translation writes it, a snapshot settles it for each Service. Must not know: endpoints, routes.

use std::sync::Arc;

use crate::mesh::facts::ObjectMeta;
use crate::mesh::service::ServiceName;
use crate::mesh::traffic::RetryConstraint;

/// Gateway API's `XBackendTrafficPolicy`, as far as it has an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTrafficPolicy {
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// `targetRefs`: field, and Service of its own namespace.
    pub targets: Vec<(Arc<str>, ServiceName)>,
    /// `retryConstraint`.
    pub retries: RetryConstraint,
}
