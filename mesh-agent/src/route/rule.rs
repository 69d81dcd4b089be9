//! What a rule does with a request that it matched: its changes, its time limits and its weighted backends.
//!
//! Place in the walk: what [`super::RouteTable::decide`] returns. Must not know: matching, endpoints.

use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, RngCore};

use super::session::Session;
use crate::mesh::route::{
    BackendTarget, Cors, DirectResponse, Fault, Filters, HttpRoute, HttpRule, Mirror, Redirect, RetryPolicy,
    RouteBackend, RouteKind, RuleAction,
};
use crate::mesh::service::ServiceName;

/// A rule as it is applied to requests.
#[derive(Debug)]
pub struct CompiledRule {
    /// `NAMESPACE/NAME` of the route, for records.
    pub route: String,
    /// The route's kind.
    pub kind: RouteKind,
    /// Its place among the rules of the route, from 0.
    pub index: usize,
    /// Its own name, if it has one.
    pub name: Option<Arc<str>>,
    /// What is changed on the way, wherever a request goes.
    pub filters: Filters,
    /// Cross-origin requests, where the rule says something of them.
    pub cors: Option<Cors>,
    /// What is put in on purpose.
    pub fault: Option<Fault>,
    /// The limit for the whole transaction, from the first byte of the request to the last of the response.
    pub request_timeout: Option<Duration>,
    /// The limit for one attempt, until its response begins.
    pub attempt_timeout: Option<Duration>,
    /// When a request is tried again.
    pub retry: Option<RetryPolicy>,
    /// What keeps a client at one endpoint, whichever backend it is of.
    pub session: Option<Arc<Session>>,
    /// What becomes of a request.
    pub action: CompiledAction,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum CompiledAction {
    /// It goes to a backend.
    Forward(Shares),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The agent answers.
    Respond(DirectResponse),
}

/// Backends, each with the sum of the weights up to and including its own; `None` stands for one that cannot be. Those
/// without a weight are never drawn, but clients may be kept there.
#[derive(Debug, Default)]
pub struct Shares(Vec<(u64, Option<Arc<Backend>>)>);

/// A backend that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Some of its endpoints, by the name that a DestinationRule gives them.
    pub subset: Option<Arc<str>>,
    /// What is changed of requests that go there, after the rule's own changes.
    pub filters: Filters,
}

impl CompiledRule {
    pub(super) fn compile(
        route: &HttpRoute,
        index: usize,
        declared: &HttpRule,
        backend_exists: &impl Fn(&BackendTarget) -> bool,
    ) -> Self {
        let is_possible = |mirror: &Mirror| backend_exists(&mirror.target);
        let mut filters = declared.filters.clone();
        filters.mirrors.retain(is_possible);
        let action = match &declared.action {
            RuleAction::Redirect(redirect) => CompiledAction::Redirect(redirect.clone()),
            RuleAction::Respond(response) => CompiledAction::Respond(response.clone()),
            RuleAction::Forward(backends) => {
                CompiledAction::Forward(Shares::compile(backends, backend_exists))
            }
        };
        Self {
            route: super::full_name(route),
            kind: route.kind,
            index,
            name: declared.name.clone(),
            filters,
            cors: declared.cors.clone(),
            fault: declared.fault.clone(),
            request_timeout: declared.request_timeout.filter(|limit| !limit.is_zero()),
            attempt_timeout: declared.attempt_timeout.filter(|limit| !limit.is_zero()),
            retry: declared.retry.clone(),
            session: declared
                .session
                .as_ref()
                .map(|session| Session::compile(session, (route, index), declared, backend_exists))
                .map(Arc::new),
            action,
        }
    }
}

impl CompiledRule {
    /// Where requests may go; nowhere, where the rule answers itself.
    pub fn backends(&self) -> &Shares {
        static NOWHERE: Shares = Shares(Vec::new());
        match &self.action {
            CompiledAction::Forward(shares) => shares,
            CompiledAction::Redirect(_) | CompiledAction::Respond(_) => &NOWHERE,
        }
    }
}

impl Backend {
    /// `None` for one that cannot be.
    pub(super) fn compile(declared: &RouteBackend, exists: &impl Fn(&BackendTarget) -> bool) -> Option<Self> {
        let named = declared.target.named().filter(|_| exists(&declared.target));
        let (service, port, subset) = named?;
        let mut filters = declared.filters.clone();
        filters.mirrors.retain(|mirror| exists(&mirror.target));
        Some(Self {
            service: service.clone(),
            port,
            subset: subset.cloned(),
            filters,
        })
    }
}

impl Shares {
    pub(super) fn compile(backends: &[RouteBackend], exists: &impl Fn(&BackendTarget) -> bool) -> Self {
        let mut total = 0_u64;
        let shares = backends.iter().map(|backend| {
            total += u64::from(backend.weight);
            (total, Backend::compile(backend, exists).map(Arc::new))
        });
        Self(shares.collect())
    }

    /// Chooses a backend, each with the probability that its weight gives it. `None` means 500: a backend that cannot
    /// be, or a rule of which no backend has a weight.
    pub fn choose(&self, rng: &mut dyn RngCore) -> Option<&Arc<Backend>> {
        let (total, _) = self.0.last().filter(|(total, _)| *total > 0)?;
        let ticket = rng.random_range(0..*total);
        let index = self.0.partition_point(|(up_to, _)| *up_to <= ticket);
        self.0.get(index)?.1.as_ref()
    }

    /// Those that exist, also without a weight.
    pub fn existing(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.0.iter().filter_map(|(_, backend)| backend.as_ref())
    }

    /// Those with a weight, each with it; `None` stands for one that cannot be.
    pub fn each(&self) -> impl Iterator<Item = (u64, Option<&Arc<Backend>>)> {
        let before = std::iter::once(0).chain(self.0.iter().map(|(up_to, _)| *up_to));
        let shares = self.0.iter().zip(before);
        shares
            .map(|((up_to, backend), before)| (up_to - before, backend.as_ref()))
            .filter(|(weight, _)| *weight > 0)
    }
}
