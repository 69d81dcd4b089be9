//! The rules of one action for one workload, found by who asks.
//!
//! Place in the walk: part of [`super::Protection`]. Must not know: what a match means.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::asked::{Connection, Content, Peer};
use super::matcher::{self, Doubt, Match};
use crate::mesh::policy::authorization::{
    AuthorizationPolicy, Condition, PolicyRule, TextAttribute, TextMatch,
};

/// Rules in the order of their policies, with an index that leaves out those whose sources cannot be the peer.
#[derive(Debug, Default)]
pub(super) struct Rules {
    entries: Vec<Entry>,
    /// Those that anybody may match.
    anybody: Vec<usize>,
    by_source: HashMap<SourceKey, Vec<usize>>,
    /// Whether one of the policies acts on all ports.
    is_on_all_ports: bool,
    ports: BTreeSet<u16>,
}

/// The rules of one action of a workload: its namespace's, and its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Both<'r>(pub(super) [&'r Rules; 2]);

/// One rule.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) policy: Arc<AuthorizationPolicy>,
    /// Its index within the policy.
    pub(super) rule: usize,
    ports: Option<BTreeSet<u16>>,
}

/// The first rule that holds, and the first that might, had there been a request.
#[derive(Debug, Default)]
pub(super) struct Found<'r> {
    pub(super) holds: Option<&'r Entry>,
    pub(super) might: Option<&'r Entry>,
}

/// A name that the peer of a source must have.
#[derive(Debug, PartialEq, Eq, Hash)]
enum SourceKey {
    Principal(Box<str>),
    Namespace(Box<str>),
    ServiceAccount(Box<str>),
}

impl Rules {
    /// Whether a policy acts on `port`, be it one without a rule.
    pub(super) fn act_on(&self, port: u16) -> bool {
        self.is_on_all_ports || self.ports.contains(&port)
    }

    /// Whether there is no policy at all.
    pub(super) fn are_none(&self) -> bool {
        !self.is_on_all_ports && self.ports.is_empty()
    }

    pub(super) fn add(&mut self, policy: &Arc<AuthorizationPolicy>, ports: Option<&BTreeSet<u16>>) {
        match ports {
            None => self.is_on_all_ports = true,
            Some(ports) => self.ports.extend(ports),
        }
        for (rule, declared) in policy.rules.iter().enumerate() {
            let entry = self.entries.len();
            match source_keys(declared) {
                None => self.anybody.push(entry),
                Some(keys) => {
                    for key in keys {
                        self.by_source.entry(key).or_default().push(entry);
                    }
                }
            }
            self.entries.push(Entry {
                policy: Arc::clone(policy),
                rule,
                ports: ports.cloned(),
            });
        }
    }

    pub(super) fn find(&self, connection: &Connection<'_>, content: Content<'_>, doubt: Doubt) -> Found<'_> {
        let mut first: [Option<usize>; 2] = [None, None];
        let peer = connection.peer.as_ref().filter(|_| !self.by_source.is_empty());
        let of_peer = peer.map(keys_of_peer);
        let lists = of_peer.iter().flatten().filter_map(|key| self.by_source.get(key));
        for list in lists.chain([&self.anybody]) {
            let [holds, might] = self.first_of(list, connection, content, doubt);
            first = [earlier(first[0], holds), earlier(first[1], might)];
        }
        let [holds, might] = first.map(|entry| self.entries.get(entry?));
        Found { holds, might }
    }

    /// What [`Self::find`] must find, without the index.
    #[cfg(test)]
    pub(super) fn find_naively(
        &self,
        connection: &Connection<'_>,
        content: Content<'_>,
        doubt: Doubt,
    ) -> Found<'_> {
        let all: Vec<usize> = (0..self.entries.len()).collect();
        let first = self.first_of(&all, connection, content, doubt);
        let [holds, might] = first.map(|entry| self.entries.get(entry?));
        Found { holds, might }
    }

    fn first_of(
        &self,
        list: &[usize],
        connection: &Connection<'_>,
        content: Content<'_>,
        doubt: Doubt,
    ) -> [Option<usize>; 2] {
        let mut might = None;
        for &index in list {
            let Some(entry) = self.entries.get(index) else {
                continue;
            };
            match entry.matches(connection, content, doubt) {
                Match::No => {}
                Match::Yes => return [Some(index), might],
                Match::NeedsRequest => might = might.or(Some(index)),
            }
        }
        [None, might]
    }
}

impl<'r> Both<'r> {
    /// Whether a policy acts on `port`, be it one without a rule.
    pub(super) fn act_on(&self, port: u16) -> bool {
        self.0.iter().any(|rules| rules.act_on(port))
    }

    /// Whether there is no policy at all.
    pub(super) fn are_none(&self) -> bool {
        self.0.iter().all(|rules| rules.are_none())
    }

    /// All of them, in no order.
    pub(super) fn entries(self) -> impl Iterator<Item = &'r Entry> {
        self.0.into_iter().flat_map(|rules| &rules.entries)
    }

    /// What one list of all of them would find.
    pub(super) fn find(&self, connection: &Connection<'_>, content: Content<'_>, doubt: Doubt) -> Found<'r> {
        let [a, b] = self.0.map(|rules| rules.find(connection, content, doubt));
        Found {
            holds: first_of_both(a.holds, b.holds),
            might: first_of_both(a.might, b.might),
        }
    }
}

fn first_of_both<'r>(a: Option<&'r Entry>, b: Option<&'r Entry>) -> Option<&'r Entry> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.place() < a.place() { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl Entry {
    /// Sorts as the policies of a workload are sorted.
    fn place(&self) -> (&str, &str, usize) {
        (&self.policy.namespace, &self.policy.name, self.rule)
    }

    /// Whether a connection to `port` might match.
    pub(super) fn may_concern(&self, port: u16) -> bool {
        let acts = self.ports.as_ref().is_none_or(|ports| ports.contains(&port));
        let rule = self.policy.rules.get(self.rule).filter(|_| acts);
        rule.is_some_and(|rule| matcher::may_concern(rule, port))
    }

    fn matches(&self, connection: &Connection<'_>, content: Content<'_>, doubt: Doubt) -> Match {
        let acts = self
            .ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&connection.port));
        match self.policy.rules.get(self.rule).filter(|_| acts) {
            Some(rule) => matcher::rule(rule, connection, content, doubt),
            None => Match::No,
        }
    }
}

fn earlier(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn keys_of_peer(peer: &Peer<'_>) -> [SourceKey; 3] {
    [
        SourceKey::Principal(peer.principal.as_str().into()),
        SourceKey::Namespace(peer.namespace.into()),
        SourceKey::ServiceAccount(peer.service_account.as_str().into()),
    ]
}

/// The names of which the peer must have one for the rule to match; `None` when it may match a peer of another name,
/// or none.
fn source_keys(rule: &PolicyRule) -> Option<Vec<SourceKey>> {
    if rule.from.is_empty() {
        return None;
    }
    let mut keys = Vec::new();
    for source in &rule.from {
        keys.append(&mut source.iter().find_map(names)?);
    }
    Some(keys)
}

/// The whole names that a condition demands.
fn names(condition: &Condition) -> Option<Vec<SourceKey>> {
    let Condition::Text { of, values } = condition else {
        return None;
    };
    let key = match of {
        TextAttribute::Principal => SourceKey::Principal,
        TextAttribute::Namespace => SourceKey::Namespace,
        TextAttribute::ServiceAccount => SourceKey::ServiceAccount,
        TextAttribute::TrustDomain
        | TextAttribute::Host
        | TextAttribute::Method
        | TextAttribute::Path
        | TextAttribute::Header(_)
        | TextAttribute::RequestPrincipal
        | TextAttribute::Audience
        | TextAttribute::Presenter
        | TextAttribute::Claim(_) => return None,
    };
    if values.any.is_empty() {
        return None;
    }
    let exact = values.any.iter().map(|value| match value {
        TextMatch::Exact(name) => Some(key(name.as_ref().into())),
        TextMatch::Prefix(_) | TextMatch::Suffix(_) | TextMatch::Present | TextMatch::Template(_) => None,
    });
    exact.collect()
}
