//! Decides where an HTTP request goes, and a connection that is none: routes compiled for one Service port and one group
//! of clients.
//!
//! Place in the walk: after the request head is read, or the connection's first bytes, before a backend's endpoint is
//! chosen. Must not know: connections, endpoints, or how routes were read.

mod further;
mod index;
mod matcher;
mod mismatch;
mod retry;
mod rewrite;
mod rule;
mod session;
mod stream;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use self::index::Index;
use self::matcher::{Matcher, Specificity};
pub use self::mismatch::Mismatch;
pub use self::retry::{Attempt, Attempts, NoMore};
pub use self::rewrite::{Asked, location, rewritten};
pub use self::rule::{Backend, CompiledAction, CompiledRule, Shares};
pub use self::session::{Carrier, Session};
pub use self::stream::{CompiledStreamRule, Need, StreamDecision, StreamFacts, StreamTable};
use crate::mesh::route::{BackendTarget, HttpRoute};

/// What a route may look at.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The method as it was sent.
    pub method: &'a str,
    /// The path without its query.
    pub path: &'a str,
    /// The query.
    pub query: Option<&'a str>,
    /// All request headers.
    pub headers: &'a HeaderMap,
    /// What is known besides the request itself.
    pub dialled: Dialled<'a>,
}

/// Who dialled what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dialled<'a> {
    /// The authority that the client named.
    pub authority: &'a str,
    /// The port of the Service.
    pub port: u16,
    /// The client's namespace.
    pub namespace: &'a str,
    /// The labels of the client's pod.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// The rule that decides a request.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The rule.
    pub rule: Arc<CompiledRule>,
    /// The prefix of the match that held, where it is one: a rewrite may replace that part.
    pub prefix: Option<Arc<str>>,
    /// Where the rule keeps clients at one endpoint: the path at and below which the match may hold, as cookies say it.
    pub cookie_path: Option<Arc<str>>,
}

/// All rules that apply to one Service port and one group of clients: by Gateway API's precedence, or as they are written.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// The first entry that holds decides.
    entries: Vec<(Matcher, Arc<CompiledRule>)>,
    /// Of many entries, which may hold.
    index: Option<Index>,
    has_faults: bool,
}

impl RouteTable {
    /// Compiles the routes of one group: the producer routes of a Service port, or one namespace's consumer routes.
    ///
    /// They are of one kind, which tells the order of their rules. A backend for which `backend_exists` does not hold answers 500 in its share of requests.
    pub fn compile<'a>(
        routes: impl IntoIterator<Item = &'a HttpRoute>,
        backend_exists: impl Fn(&BackendTarget) -> bool,
    ) -> Self {
        let mut routes: Vec<_> = routes.into_iter().collect();
        routes
            .sort_by_cached_key(|route| (route.meta.created.is_none(), route.meta.created, full_name(route)));
        let is_as_written = routes.iter().any(|route| route.kind.is_as_written());
        let mut entries = Vec::new();
        for route in routes {
            for (index, declared) in route.rules.iter().enumerate() {
                let rule = Arc::new(CompiledRule::compile(route, index, declared, &backend_exists));
                for of_rule in &declared.matches {
                    entries.push((Matcher::compile(of_rule), Arc::clone(&rule)));
                }
            }
        }
        if !is_as_written {
            // Stable: between equals the elder route, then the first of its rules stays in front.
            entries.sort_by_key(|(matcher, _)| Reverse::<Specificity>(matcher.specificity()));
        }
        Self {
            has_faults: entries.iter().any(|(_, rule)| rule.fault.is_some()),
            index: Index::of(entries.iter().map(|(matcher, _)| matcher)),
            entries,
        }
    }

    /// Whether a rule puts in faults.
    pub fn has_faults(&self) -> bool {
        self.has_faults
    }

    /// The rule for a request; `None` means 404, since a Service with routes answers nothing else.
    pub fn decide(&self, request: &RequestFacts<'_>) -> Option<Decided> {
        let Some(index) = &self.index else {
            return self.trials(request).find_map(Trial::decided);
        };
        let mut candidates = index.candidates(request.path);
        candidates.find_map(|position| trial(self.entries.get(position)?, request).decided())
    }

    /// How each match fares, in the order in which they are tried: the first that holds decides.
    pub fn trials<'t>(&'t self, request: &RequestFacts<'_>) -> impl Iterator<Item = Trial<'t>> {
        self.entries.iter().map(move |entry| trial(entry, request))
    }
}

/// One match of a rule, held against a request.
#[derive(Debug)]
pub struct Trial<'t> {
    /// The rule that has it.
    pub rule: &'t Arc<CompiledRule>,
    /// Why it does not hold; `None` where it does.
    pub mismatch: Option<Mismatch<'t>>,
    matcher: &'t Matcher,
}

impl Trial<'_> {
    /// What the match asks for, in words.
    pub fn asks(&self) -> String {
        self.matcher.to_string()
    }

    fn decided(self) -> Option<Decided> {
        self.mismatch.is_none().then(|| Decided {
            rule: Arc::clone(self.rule),
            prefix: self.matcher.prefix().cloned(),
            cookie_path: self.rule.session.as_ref().map(|_| self.matcher.cookie_path()),
        })
    }
}

fn trial<'t>((matcher, rule): &'t (Matcher, Arc<CompiledRule>), request: &RequestFacts<'_>) -> Trial<'t> {
    Trial {
        mismatch: matcher.mismatch(request),
        rule,
        matcher,
    }
}

fn full_name(route: &HttpRoute) -> String {
    format!("{}/{}", route.namespace, route.name)
}

#[cfg(test)]
mod further_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial_tests;
