//! Decides where a connection goes that is no HTTP: routes compiled for one Service port and one group of clients.
//!
//! Place in the walk: after the first bytes were looked at, where a rule asks for them, and before an endpoint is chosen.
//! Must not know: sockets, endpoints, or how routes were read.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use rand::RngCore;

use super::Dialled;
use super::rule::{Backend, Shares};
use crate::mesh::route::{BackendTarget, Opening, OpeningMatch, RouteKind, StreamMatch, StreamRoute};

/// What a route of connections may look at.
#[derive(Debug, Clone, Copy)]
pub struct StreamFacts<'a> {
    /// The address that the client dialled.
    pub addr: IpAddr,
    /// Who dialled; its authority is not known.
    pub dialled: Dialled<'a>,
    /// What it began with.
    pub opening: &'a Opening,
}

/// All rules that apply to connections to one Service port by one group of clients.
#[derive(Debug)]
pub struct StreamTable {
    kind: RouteKind,
    /// The first entry that holds decides.
    entries: Vec<(StreamMatch, Arc<CompiledStreamRule>)>,
}

/// A rule as it is applied to connections.
#[derive(Debug)]
pub struct CompiledStreamRule {
    /// `NAMESPACE/NAME` of the route, for records.
    pub route: String,
    shares: Shares,
}

/// What a table says of a connection.
#[derive(Debug, Clone)]
pub enum StreamDecision {
    /// This rule sends it on.
    Rule(Arc<CompiledStreamRule>),
    /// No rule is about this client and port: it goes where it was dialled to.
    Unconcerned,
    /// Rules are about this client and port and none holds: it is refused.
    NoRoute,
}

/// What has to be known of a connection's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Whether they begin a TLS handshake; they may as well be something else, or not come.
    Glance,
    /// The whole ClientHello: nothing else is let through, so that it is worth waiting for.
    Handshake,
}

impl StreamTable {
    /// Compiles the routes of one group, which are of one kind. A backend for which `exists` does not hold keeps its share
    /// of connections, which are refused.
    ///
    /// `None` where there are no routes.
    pub fn compile<'a>(
        routes: impl IntoIterator<Item = &'a StreamRoute>,
        exists: impl Fn(&BackendTarget) -> bool,
    ) -> Option<Self> {
        let mut routes: Vec<_> = routes.into_iter().collect();
        let kind = routes.first()?.kind;
        routes.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
        let mut entries = Vec::new();
        for route in routes {
            for declared in &route.rules {
                let rule = Arc::new(CompiledStreamRule {
                    route: format!("{}/{}", route.namespace, route.name),
                    shares: Shares::compile(&declared.backends, &exists),
                });
                entries.extend(
                    declared
                        .matches
                        .iter()
                        .map(|one| (one.clone(), Arc::clone(&rule))),
                );
            }
        }
        if !kind.is_as_written() {
            // Stable: between equals the elder route, then the first of its rules stays in front.
            entries.sort_by_key(|(one, _)| Reverse(specificity(one)));
        }
        Some(Self { kind, entries })
    }

    /// Whether whatever is spoken on the port is taken for opaque bytes: a route of connections that has won the port says
    /// so, HTTP or not. The parts of a VirtualService leave HTTP to its `http` part.
    pub fn is_of_all_bytes(&self) -> bool {
        self.kind != RouteKind::Virtual
    }

    /// What has to be known of the first bytes of a connection by this client.
    pub fn need(&self, dialled: &Dialled<'_>) -> Need {
        let (mut asks, mut is_any_meant) = (false, false);
        for (one, _) in self.entries.iter().filter(|(one, _)| concerns(one, dialled)) {
            match one.opening {
                OpeningMatch::Tls | OpeningMatch::Named(_) => asks = true,
                OpeningMatch::Anything => is_any_meant = true,
            }
            // What follows is never asked.
            if is_any_meant && one.subnets.is_empty() {
                break;
            }
        }
        match (asks, is_any_meant) {
            (false, _) => Need::Nothing,
            (true, true) => Need::Glance,
            (true, false) => Need::Handshake,
        }
    }

    /// The rule for a connection.
    pub fn decide(&self, facts: &StreamFacts<'_>) -> StreamDecision {
        let mut is_concerned = self.is_of_all_bytes();
        for (one, rule) in &self.entries {
            if !concerns(one, &facts.dialled) {
                continue;
            }
            is_concerned = true;
            let is_within =
                one.subnets.is_empty() || one.subnets.iter().any(|block| block.contains(facts.addr));
            if is_within && one.opening.holds(facts.opening) {
                return StreamDecision::Rule(Arc::clone(rule));
            }
        }
        if is_concerned {
            StreamDecision::NoRoute
        } else {
            StreamDecision::Unconcerned
        }
    }
}

impl CompiledStreamRule {
    /// Chooses a backend, each with the probability that its weight gives it; `None` for one that cannot be, or where none
    /// has a weight.
    pub fn choose(&self, rng: &mut dyn RngCore) -> Option<&Arc<Backend>> {
        self.shares.choose(rng)
    }

    /// What it chooses from.
    pub fn backends(&self) -> &Shares {
        &self.shares
    }
}

/// Whether a match is about this client and port, whatever is sent to which of the Service's addresses.
fn concerns(one: &StreamMatch, dialled: &Dialled<'_>) -> bool {
    let has =
        |(name, value): &(String, String)| dialled.labels.and_then(|labels| labels.get(name)) == Some(value);
    one.port.is_none_or(|port| port == dialled.port)
        && one
            .source_namespace
            .as_deref()
            .is_none_or(|wanted| wanted == dialled.namespace)
        && one.source_labels.iter().all(has)
}

/// Gateway API's order of names; what asks for none comes last.
fn specificity(one: &StreamMatch) -> (u8, (u8, usize)) {
    match &one.opening {
        OpeningMatch::Anything => (0, (0, 0)),
        OpeningMatch::Tls => (1, (0, 0)),
        OpeningMatch::Named(pattern) => (2, pattern.specificity()),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
