//! The policies that protect one workload, in Istio's order: CUSTOM, DENY, ALLOW; AUDIT and dry runs only record.
//!
//! Place in the walk: asked once a connection, and once a request. Must not know: which workload it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::asked::{Connection, Content, Request};
use super::matcher::Doubt;
use super::rules::{Entry, Rules};
use super::{Denial, DryRun, Recorded, Verdict};
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
}

/// The policies that decide, by action.
#[derive(Debug, Default)]
struct Actions {
    custom: Rules,
    deny: Rules,
    allow: Rules,
}

impl Protection {
    pub(super) fn compile(selected: &Selected, policies: &[Arc<AuthorizationPolicy>]) -> Self {
        let mut protection = Self::default();
        for (policy, ports) in selected {
            let Some(policy) = policies.get(*policy) else {
                continue;
            };
            let actions = if policy.is_dry_run {
                &mut protection.on_trial
            } else {
                &mut protection.enforced
            };
            let rules = match policy.action {
                PolicyAction::Custom => &mut actions.custom,
                PolicyAction::Deny => &mut actions.deny,
                PolicyAction::Allow => &mut actions.allow,
                PolicyAction::Audit => &mut protection.audit,
            };
            rules.add(policy, ports.as_ref());
            protection.sources.push((Arc::clone(policy), ports.clone()));
        }
        protection
    }

    /// Whether compiling `selected` would come to the same, since these very policies were compiled.
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

    /// Whether a request may pass.
    pub fn of_request(&self, connection: &Connection<'_>, request: &Request<'_>) -> Result<(), Denial> {
        self.enforced.of_request(connection, request)
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
                Some(request) => trial.of_request(connection, request),
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
        let mut needs_requests = false;
        for rules in [&self.custom, &self.deny] {
            let found = rules.find(connection, Content::Pending, Doubt::Holds);
            if let Some(entry) = found.holds {
                return Verdict::Denied(denial(entry));
            }
            needs_requests |= found.might.is_some();
        }
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

    fn of_request(&self, connection: &Connection<'_>, request: &Request<'_>) -> Result<(), Denial> {
        for rules in [&self.custom, &self.deny] {
            if let Some(entry) = rules.find(connection, Content::Http(request), Doubt::Holds).holds {
                return Err(denial(entry));
            }
        }
        self.is_allowed(connection, Content::Http(request))
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
