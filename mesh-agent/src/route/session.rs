//! What keeps a client at one endpoint, compiled: which backends a session may name, and by what it names them.
//!
//! Place in the walk: part of a rule, or of a Service; before a backend is drawn by its weight. Must not know: requests, endpoints, how a
//! token is written.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::rule::Backend;
use crate::mesh::route::{BackendTarget, Filters, HttpRoute, HttpRule, SessionCarrier, SessionPersistence};
use crate::mesh::service::ServiceName;

/// The sessions of one rule, or of one port of a Service.
#[derive(Debug)]
pub struct Session {
    /// What carries a session's token.
    pub carrier: Carrier,
    /// How long a session lasts from its first request on; `None` means without end.
    pub lifetime: Option<Duration>,
    /// Its backends by what tokens call them, those without a weight too: a session that began at one stays
    /// there when its weight is taken away (GEP-1619, "Traffic Splitting").
    backends: Vec<(u64, Arc<Backend>)>,
}

/// What carries the token of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// Whether the client keeps it for the session's lifetime, rather than until it is closed.
        is_permanent: bool,
    },
    /// A header of the response, which the client repeats.
    Header(HeaderName),
}

impl Session {
    pub(super) fn compile(
        declared: &SessionPersistence,
        (route, index): (&HttpRoute, usize),
        rule: &HttpRule,
        backend_exists: &impl Fn(&BackendTarget) -> bool,
    ) -> Self {
        // A named rule keeps its sessions when others are put before it.
        let place = rule
            .name
            .as_deref()
            .map_or_else(|| index.to_string(), |name| format!("/{name}"));
        let rule_name = [route.kind.as_str(), &route.namespace, &route.name, &place].join("\n");
        let backends = rule.backends().iter();
        let backends = backends.filter_map(|backend| Backend::compile(backend, backend_exists));
        Self::of(&rule_name, declared, backends)
    }

    /// Those of a Service's port, or of a subset of its endpoints, whichever rule leads there.
    pub fn of_service(
        declared: &SessionPersistence,
        service: &ServiceName,
        port: u16,
        subset: Option<&Arc<str>>,
    ) -> Self {
        let only = Backend {
            service: service.clone(),
            port,
            subset: subset.cloned(),
            filters: Filters::default(),
        };
        // No kind of route is called so. A client of several subsets has one cookie for all.
        Self::of(&format!("Service\n{service}\n{port}"), declared, [only])
    }

    fn of(owner: &str, declared: &SessionPersistence, backends: impl IntoIterator<Item = Backend>) -> Self {
        let carrier = match &declared.carrier {
            SessionCarrier::Header(name) => Carrier::Header(name.clone()),
            SessionCarrier::Cookie { name, is_permanent } => Carrier::Cookie {
                name: name
                    .clone()
                    .unwrap_or_else(|| format!("mesh-session-{:016x}", hash(owner)).into()),
                is_permanent: *is_permanent,
            },
        };
        let backends = backends.into_iter();
        Self {
            carrier,
            lifetime: declared.lifetime,
            backends: backends
                .map(|backend| (hash(&full_name(owner, &backend)), Arc::new(backend)))
                .collect(),
        }
    }

    /// The backend that its tokens call so; tokens of other rules or Services name none.
    pub fn backend(&self, name: u64) -> Option<&Arc<Backend>> {
        let mut backends = self.backends.iter();
        backends.find_map(|(own, backend)| (*own == name).then_some(backend))
    }

    /// What its tokens call a backend.
    pub fn name_of(&self, service: &ServiceName, port: u16, subset: Option<&Arc<str>>) -> Option<u64> {
        let is_same =
            |one: &Backend| (&one.service, one.port, one.subset.as_ref()) == (service, port, subset);
        let mut backends = self.backends.iter();
        backends.find_map(|(name, one)| is_same(one).then_some(*name))
    }
}

/// Of a backend of a rule or a Service: rules share no sessions (GEP-1619, "Two Routes Rules have Session Persistence to the Same
/// Service").
fn full_name(owner: &str, backend: &Backend) -> String {
    let subset = backend.subset.as_deref().unwrap_or_default();
    format!("{owner}\n{}\n{}\n{subset}", backend.service, backend.port)
}

fn hash(text: &str) -> u64 {
    twox_hash::XxHash64::oneshot(0, text.as_bytes())
}
