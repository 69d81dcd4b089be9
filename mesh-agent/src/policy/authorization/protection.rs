//! The policies that protect one workload, in Istio's order: CUSTOM, DENY, ALLOW; AUDIT and dry runs only record.
//!
//! Place in the walk: asked once a connection, and once a request. Must not know: which workload it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::asked::{Connection, Content, Request};
use super::matcher::Doubt;
use super::rules::{Entry, Rules};
use super::{Ask, Denial, DryRun, Judgement, Recorded, Verdict};
use crate::mesh::policy::authorization::{AuthorizationPolicy, PolicyAction};
use crate::policy::selection::Selected;

/// The policies of one workload, ready to be asked.
#[derive(Debug, Default)]
pub struct Protection {
    /// What it was compiled from.
    sources: Vec<(Arc<AuthorizationPolicy>, Option<BTreeSet<u16>>)>,
    enforced: Actions,
    on_trial: Actions,
    audit: Rules,
    rivals: Vec<Arc<AuthorizationPolicy>>,
}

/// The policies that decide, by action.
#[derive(Debug, Default)]
struct Actions {
    custom: Rules,
    deny: Rules,
    allow: Rules,
}

impl Protection {
    /// `providers` are those that are declared: a CUSTOM policy that names no such one refuses what it matches, as one
    /// does that names another than the first (in the order of the policies) of the workload.
    pub(super) fn compile(
        selected: &Selected,
        policies: &[Arc<AuthorizationPolicy>],
        providers: &BTreeSet<Arc<str>>,
    ) -> Self {
        let mut protection = Self::default();
        let mut in_force: Option<&Arc<str>> = None;
        for (policy, ports) in selected {
            let Some(policy) = policies.get(*policy) else {
                continue;
            };
            protection.sources.push((Arc::clone(policy), ports.clone()));
            let actions = if policy.is_dry_run {
                &mut protection.on_trial
            } else {
                &mut protection.enforced
            };
            let rules = match policy.action {
                // Its provider is asked in earnest or not at all; the translation has said so.
                PolicyAction::Custom if policy.is_dry_run => continue,
                PolicyAction::Custom => {
                    let provider = policy.provider.as_ref();
                    match provider.filter(|provider| providers.contains(*provider)) {
                        None => &mut actions.deny,
                        Some(provider) if *in_force.get_or_insert(provider) == provider => {
                            &mut actions.custom
                        }
                        Some(_) => {
                            protection.rivals.push(Arc::clone(policy));
                            &mut actions.deny
                        }
                    }
                }
                PolicyAction::Deny => &mut actions.deny,
                PolicyAction::Allow => &mut actions.allow,
                PolicyAction::Audit => &mut protection.audit,
            };
            rules.add(policy, ports.as_ref());
        }
        protection
    }

    /// The policies in their order, each with the ports on which it acts; `None` is all.
    pub(super) fn sources(
        &self,
    ) -> impl Iterator<Item = (&Arc<AuthorizationPolicy>, Option<&BTreeSet<u16>>)> {
        self.sources
            .iter()
            .map(|(policy, ports)| (policy, ports.as_ref()))
    }

    /// The CUSTOM policies that name another provider than the one that is asked.
    pub(super) fn rivals(&self) -> &[Arc<AuthorizationPolicy>] {
        &self.rivals
    }

    /// Whether compiling `selected` with the same providers would come to the same, since these very policies were
    /// compiled.
    pub(super) fn is_of(&self, selected: &Selected, policies: &[Arc<AuthorizationPolicy>]) -> bool {
        let mut sources = self.sources.iter();
        let is_same = selected.iter().all(|(policy, ports)| {
            let source = sources.next().zip(policies.get(*policy));
            source.is_some_and(|((known, on), policy)| Arc::ptr_eq(known, policy) && on == ports)
        });
        is_same && sources.next().is_none()
    }

    /// Whether there is no policy to ask.
    pub fn is_none(&self) -> bool {
        self.enforced.are_none() && self.on_trial.are_none() && self.audit.are_none()
    }

    /// What is known before a request, if one will come.
    pub fn of_connection(&self, connection: &Connection<'_>) -> Verdict {
        self.enforced.of_connection(connection)
    }

    /// Whether bytes that are no HTTP may pass: rules that ask for parts of a request never let them in, and always
    /// keep them out.
    pub fn of_bytes(&self, connection: &Connection<'_>) -> Result<(), Denial> {
        self.enforced.of_bytes(connection)
    }

    /// Whether a request may pass, or whose decision must be had first; `approved` is the provider that has let it in.
    pub fn of_request(
        &self,
        connection: &Connection<'_>,
        request: &Request<'_>,
        approved: Option<&str>,
    ) -> Result<Judgement, Denial> {
        self.enforced.of_request(connection, request, approved)
    }

    /// Whether there is a policy that only records.
    pub fn records(&self) -> bool {
        !(self.on_trial.are_none() && self.audit.are_none())
    }

    /// What is only to be recorded of a request, or of a connection whose bytes are no HTTP.
    pub fn recorded(&self, connection: &Connection<'_>, request: Option<&Request<'_>>) -> Recorded {
        let trial = &self.on_trial;
        let dry_run = (!trial.are_none()).then(|| {
            let decided = match request {
                Some(request) => trial.of_request(connection, request, None).map(drop),
                None => trial.of_bytes(connection),
            };
            match decided {
                Ok(()) => DryRun::WouldAllow,
                Err(_denial) => DryRun::WouldDeny,
            }
        });
        let content = request.map_or(Content::Opaque, Content::Http);
        let audited = self.audit.find(connection, content, Doubt::Holds);
        Recorded {
            is_audited: audited.holds.or(audited.might).is_some(),
            dry_run,
        }
    }
}

impl Actions {
    fn are_none(&self) -> bool {
        [&self.custom, &self.deny, &self.allow]
            .into_iter()
            .all(Rules::are_none)
    }

    fn of_connection(&self, connection: &Connection<'_>) -> Verdict {
        // Nobody is asked about a connection; about its requests somebody may be.
        let custom = self.custom.find(connection, Content::Pending, Doubt::Holds);
        let denied = self.deny.find(connection, Content::Pending, Doubt::Holds);
        if let Some(entry) = denied.holds {
            return Verdict::Denied(denial(entry));
        }
        let mut needs_requests = custom.holds.or(custom.might).or(denied.might).is_some();
        if self.allow.act_on(connection.port) {
            let found = self.allow.find(connection, Content::Pending, Doubt::Fails);
            match (found.holds, found.might) {
                (Some(_), _) => {}
                (None, Some(_)) => needs_requests = true,
                (None, None) => return Verdict::Denied(Denial::NotAllowed),
            }
        }
        if needs_requests {
            Verdict::NeedsRequests
        } else {
            Verdict::Allowed
        }
    }

    fn of_bytes(&self, connection: &Connection<'_>) -> Result<(), Denial> {
        for rules in [&self.custom, &self.deny] {
            let found = rules.find(connection, Content::Opaque, Doubt::Holds);
            if let Some(entry) = found.holds.or(found.might) {
                return Err(denial(entry));
            }
        }
        self.is_allowed(connection, Content::Opaque)
    }

    fn of_request(
        &self,
        connection: &Connection<'_>,
        request: &Request<'_>,
        approved: Option<&str>,
    ) -> Result<Judgement, Denial> {
        let content = Content::Http(request);
        if let Some(entry) = self.custom.find(connection, content, Doubt::Holds).holds {
            match &entry.policy.provider {
                Some(provider) if approved == Some(provider.as_ref()) => {}
                Some(provider) => {
                    return Ok(Judgement::Ask(Ask {
                        provider: Arc::clone(provider),
                        unanswered: denial(entry),
                    }));
                }
                None => return Err(denial(entry)),
            }
        }
        if let Some(entry) = self.deny.find(connection, content, Doubt::Holds).holds {
            return Err(denial(entry));
        }
        self.is_allowed(connection, content).map(|()| Judgement::Allowed)
    }

    fn is_allowed(&self, connection: &Connection<'_>, content: Content<'_>) -> Result<(), Denial> {
        if !self.allow.act_on(connection.port) {
            return Ok(());
        }
        match self.allow.find(connection, content, Doubt::Fails).holds {
            Some(_) => Ok(()),
            None => Err(Denial::NotAllowed),
        }
    }
}

fn denial(entry: &Entry) -> Denial {
    Denial::Matched {
        policy: Arc::clone(&entry.policy),
        rule: entry.rule,
    }
}
