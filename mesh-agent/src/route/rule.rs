//! What a rule does with a request that it matched: its time limit and its weighted backends.
//!
//! Place in the walk: what [`super::RouteTable::decide`] returns. Must not know: matching, endpoints.

use std::time::Duration;

use rand::{Rng, RngCore};

use crate::mesh::route::{BackendTarget, HttpRoute, HttpRule};
use crate::mesh::service::ServiceName;

/// A rule as it is applied to requests.
#[derive(Debug)]
pub struct CompiledRule {
    /// `NAMESPACE/NAME` of the route, for records.
    pub route: String,
    /// The limit for the whole transaction, from the first byte of the request to the last of the response.
    pub request_timeout: Option<Duration>,
    /// Backends with a weight, each with the sum of the weights up to and including its own.
    shares: Vec<(u64, Target)>,
}

/// Which backend takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice<'a> {
    /// A port of a Service that exists.
    Service(&'a ServiceName, u16),
    /// A backend that cannot be, or a rule of which no backend has a weight: answer 500.
    Invalid,
}

/// `None` stands for a backend that cannot be.
type Target = Option<(ServiceName, u16)>;

impl CompiledRule {
    pub(super) fn compile(
        route: &HttpRoute,
        declared: &HttpRule,
        backend_exists: &impl Fn(&ServiceName, u16) -> bool,
    ) -> Self {
        let mut total = 0_u64;
        let mut shares = Vec::new();
        for backend in declared.backends.iter().filter(|backend| backend.weight > 0) {
            total += u64::from(backend.weight);
            let target = match &backend.target {
                BackendTarget::Service(service, port) if backend_exists(service, *port) => {
                    Some((service.clone(), *port))
                }
                BackendTarget::Service(..) | BackendTarget::Invalid => None,
            };
            shares.push((total, target));
        }
        Self {
            route: super::full_name(route),
            request_timeout: declared.request_timeout.filter(|limit| !limit.is_zero()),
            shares,
        }
    }

    /// Chooses a backend, each with the probability that its weight gives it.
    pub fn choose_backend(&self, rng: &mut dyn RngCore) -> BackendChoice<'_> {
        let Some((total, _)) = self.shares.last() else {
            return BackendChoice::Invalid;
        };
        let ticket = rng.random_range(0..*total);
        let index = self.shares.partition_point(|(up_to, _)| *up_to <= ticket);
        match self.shares.get(index) {
            Some((_, Some((service, port)))) => BackendChoice::Service(service, *port),
            Some((_, None)) | None => BackendChoice::Invalid,
        }
    }
}
