//! Decides whom the tokens of a request prove: RequestAuthentication compiled into one list for each workload of this
//! node.
//!
//! Place in the walk: at the destination, once a request, before authorization asks for the claims. Must not know:
//! sockets, clocks, who fetches keys, or whether the client is on this node.

mod claims;
mod failure;
mod json;
mod keys;
pub(crate) mod location;
mod remote;
mod rule;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod token;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

pub use self::claims::Claims;
pub use self::failure::Failure;
pub use self::keys::{KeySet, KeySetError};
pub use self::remote::RemoteKeys;
use self::rule::{Keys, Rule};
use self::token::Token;
use super::selection::{Selected, Selection, Targeted};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::request_authentication::{KeySource, RequestAuthentication, TokenLocation};
use crate::mesh::service::ServiceName;
use crate::mesh::workload::{Workload, WorkloadUid};

/// All `RequestAuthentication` policies, and those of each workload of this node.
#[derive(Debug, Default)]
pub struct Authentication {
    policies: Vec<RequestAuthentication>,
    selection: Selection,
    ring: KeyRing,
    of_workload: HashMap<WorkloadUid, Arc<Guard>>,
}

/// Keys by where they come from.
#[derive(Debug, Default)]
struct KeyRing {
    /// `None` for a set that cannot be read.
    inline: BTreeMap<Arc<str>, Option<Arc<KeySet>>>,
    remote: BTreeMap<KeySource, WantedKeys>,
}

/// Keys to be fetched, and how long that may take.
#[derive(Debug, Clone)]
pub struct WantedKeys {
    /// Where they go.
    pub keys: Arc<RemoteKeys>,
    /// The longest that a rule grants.
    pub timeout: Duration,
}

impl Authentication {
    /// Compiles all policies; `local` are the workloads that will be asked about often, and `pods` tells which ports of
    /// which workloads stand behind a Service, `None` where there is no such Service. Keys that were read or fetched
    /// for `previous` are kept.
    pub fn compile<'w>(
        policies: &[RequestAuthentication],
        root_namespace: &str,
        local: impl Iterator<Item = &'w Workload>,
        pods: impl Fn(&ServiceName) -> Option<Vec<(WorkloadUid, u16)>>,
        previous: Option<&Self>,
    ) -> (Self, Vec<Rejection>) {
        let mut policies = policies.to_vec();
        policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let targeted = policies.iter().map(|policy| Targeted {
            namespace: &policy.namespace,
            target: &policy.target,
            meta: &policy.meta,
        });
        let (selection, rejections) = Selection::index(targeted, root_namespace, pods, None);
        let mut compiled = Self {
            policies,
            selection,
            ..Self::default()
        };
        let mut shared: HashMap<Selected, Arc<Guard>> = HashMap::new();
        for workload in local {
            let selected = compiled.selection.of(workload);
            let guard = if let Some(known) = shared.get(&selected) {
                Arc::clone(known)
            } else {
                compiled.learn(&selected, previous.map(|previous| &previous.ring));
                Arc::new(compiled.guard(&selected))
            };
            compiled
                .of_workload
                .insert(workload.uid.clone(), Arc::clone(&guard));
            shared.insert(selected, guard);
        }
        (compiled, rejections)
    }

    /// What looks at the tokens of requests to `workload`; for one that the snapshot does not count as this node's it
    /// is compiled for the occasion, with the keys that are at hand.
    pub fn of(&self, workload: &Workload) -> Arc<Guard> {
        match self.of_workload.get(&workload.uid) {
            Some(known) => Arc::clone(known),
            None => Arc::new(self.guard(&self.selection.of(workload))),
        }
    }

    /// The policies that look at the tokens of requests to a port of `workload`.
    pub fn policies_of(&self, workload: &Workload, port: u16) -> Vec<&RequestAuthentication> {
        let selected = self.selection.of(workload).into_iter();
        let acting = selected.filter(|(_, ports)| ports.as_ref().is_none_or(|ports| ports.contains(&port)));
        acting
            .filter_map(|(policy, _)| self.policies.get(policy))
            .collect()
    }

    /// The keys that workloads of this node need and that are published elsewhere, in a fixed order.
    pub fn wanted_keys(&self) -> impl Iterator<Item = &WantedKeys> {
        self.ring.remote.values()
    }

    fn learn(&mut self, selected: &Selected, previous: Option<&KeyRing>) {
        let policies = selected
            .iter()
            .filter_map(|(policy, _)| self.policies.get(*policy));
        for rule in policies.flat_map(|policy| &policy.rules) {
            self.ring.learn(&rule.keys, rule.timeout, previous);
        }
    }

    fn guard(&self, selected: &Selected) -> Guard {
        let mut guard = Guard::default();
        for (policy, ports) in selected {
            let Some(policy) = self.policies.get(*policy) else {
                continue;
            };
            let rules = policy
                .rules
                .iter()
                .map(|rule| Rule::new(rule, self.ring.keys(&rule.keys)));
            guard.policies.push(Guarding {
                ports: ports.clone(),
                is_whole: policy.is_whole,
                rules: rules.collect(),
            });
        }
        guard
    }
}

impl KeyRing {
    fn learn(&mut self, source: &KeySource, timeout: Duration, previous: Option<&Self>) {
        match source {
            KeySource::Unreadable => {}
            KeySource::Inline(text) => {
                let known = previous.and_then(|ring| ring.inline.get(text)).cloned();
                let read = || KeySet::read(text.as_bytes()).ok().map(Arc::new);
                self.inline
                    .entry(Arc::clone(text))
                    .or_insert_with(|| known.unwrap_or_else(read));
            }
            KeySource::Uri(_) | KeySource::Issuer(_) => {
                let known = previous.and_then(|ring| ring.remote.get(source));
                let wanted = self.remote.entry(source.clone()).or_insert_with(|| WantedKeys {
                    keys: known.map_or_else(
                        || Arc::new(RemoteKeys::new(source.clone())),
                        |known| Arc::clone(&known.keys),
                    ),
                    timeout,
                });
                wanted.timeout = wanted.timeout.max(timeout);
            }
        }
    }

    fn keys(&self, source: &KeySource) -> Keys {
        match source {
            KeySource::Unreadable => Keys::None,
            KeySource::Inline(text) => {
                let known = self.inline.get(text).cloned();
                let read = known.unwrap_or_else(|| KeySet::read(text.as_bytes()).ok().map(Arc::new));
                read.map_or(Keys::None, Keys::Inline)
            }
            KeySource::Uri(_) | KeySource::Issuer(_) => match self.remote.get(source) {
                Some(wanted) => Keys::Remote(Arc::clone(&wanted.keys)),
                None => Keys::None,
            },
        }
    }
}

/// The policies of one workload, ready to be asked.
#[derive(Debug, Default)]
pub struct Guard {
    policies: Vec<Guarding>,
}

#[derive(Debug)]
struct Guarding {
    /// Where it acts; `None` is everywhere.
    ports: Option<BTreeSet<u16>>,
    is_whole: bool,
    rules: Vec<Rule>,
}

/// What becomes of a request whose tokens, if any, are all good.
#[derive(Debug, Default)]
pub struct Admitted {
    /// What the first of them claims; `None` where none came.
    pub claims: Option<Claims>,
    /// Tokens that the application must not see.
    pub stripped: Vec<TokenLocation>,
    /// Headers that only the agent may set: what the client put there goes.
    pub cleared: Vec<HeaderName>,
    /// What the agent sets them to.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl Guard {
    /// Whether there is no policy to ask.
    pub fn is_none(&self) -> bool {
        self.policies.is_empty()
    }

    /// Looks at each token of a request to `port`: one that does not hold refuses the request, none at all does not.
    pub fn admit(
        &self,
        port: u16,
        uri: &Uri,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Admitted, Failure> {
        self.look(port, uri, headers, now, RemoteKeys::missed)
    }

    /// What [`Self::admit`] would say, without asking for keys that are not here.
    pub fn foresee(
        &self,
        port: u16,
        uri: &Uri,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Admitted, Failure> {
        self.look(port, uri, headers, now, |_remote| {})
    }

    fn look(
        &self,
        port: u16,
        uri: &Uri,
        headers: &HeaderMap,
        now: SystemTime,
        on_missed: fn(&RemoteKeys),
    ) -> Result<Admitted, Failure> {
        let acting = || {
            let policies = self.policies.iter();
            policies.filter(|policy| policy.ports.as_ref().is_none_or(|ports| ports.contains(&port)))
        };
        if acting().any(|policy| !policy.is_whole) {
            return Err(Failure::Policy);
        }
        let rules: Vec<&Rule> = acting().flat_map(|policy| &policy.rules).collect();
        let mut admitted = Admitted::default();
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut looked: Vec<&TokenLocation> = Vec::new();
        let mut tokens = 0;
        for location in rules.iter().flat_map(|rule| rule.locations()) {
            if looked.contains(&location) {
                continue;
            }
            looked.push(location);
            for text in location::find(location, uri, headers) {
                tokens += 1;
                if tokens > MAX_TOKENS {
                    return Err(Failure::TooMany);
                }
                let (rule, claims) = believed(&rules, location, &text, now, on_missed)?;
                if !rule.forwards_token() && !admitted.stripped.contains(location) {
                    admitted.stripped.push(location.clone());
                }
                admitted.set.extend(rule.headers_of(&claims));
                admitted.claims.get_or_insert(claims);
            }
        }
        let own = rules.iter().flat_map(|rule| rule.own_headers());
        admitted.cleared.extend(own.cloned());
        Ok(admitted)
    }
}

/// The rule that believes a token of `location`; of several rules of its issuer there one is enough.
fn believed<'g>(
    rules: &[&'g Rule],
    location: &TokenLocation,
    text: &str,
    now: f64,
    on_missed: fn(&RemoteKeys),
) -> Result<(&'g Rule, Claims), Failure> {
    let token = Token::read(text)?;
    let mut why = Failure::Issuer;
    let of_issuer = rules
        .iter()
        .filter(|rule| rule.is_of(&token.payload) && rule.locations().contains(location));
    for rule in of_issuer {
        match rule.believe(text, &token, now, on_missed) {
            Ok(claims) => return Ok((rule, claims)),
            Err(failure) => why = failure,
        }
    }
    Err(why)
}

/// A request has one token, rarely two; each costs a signature to be looked at.
const MAX_TOKENS: usize = 8;
