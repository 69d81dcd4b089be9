//! The policies that protect one workload, in Istio's order: CUSTOM, DENY, ALLOW; AUDIT and dry runs only record.
//!
//! Place in the walk: asked once a connection, and once a request. Must not know: which workload it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::asked::{Connection, Content, Request};
use super::layer::{Actions, Layer};
use super::matcher::Doubt;
use super::rules::{Both, Entry, Rules};
use super::{Ask, Denial, DryRun, Judgement, Recorded, Verdict};
use crate::mesh::policy::authorization::AuthorizationPolicy;

/// The policies of one workload, ready to be asked.
#[derive(Debug, Default)]
pub struct Protection {
    /// Those of its whole namespace.
    pub(super) shared: Arc<Layer>,
    /// The others.
    pub(super) own: Arc<Layer>,
}

/// The policies that decide, by action.
#[derive(Debug, Clone, Copy)]
struct Deciding<'p> {
    custom: Both<'p>,
    deny: Both<'p>,
    allow: Both<'p>,
}

impl Protection {
    fn enforced(&self) -> Deciding<'_> {
        Deciding::of([&self.shared.enforced, &self.own.enforced])
    }

    /// The policies in their order, each with the ports on which it acts; `None` is all.
    pub(super) fn sources(
        &self,
    ) -> impl Iterator<Item = (&Arc<AuthorizationPolicy>, Option<&BTreeSet<u16>>)> {
        let mut all: Vec<_> = self.shared.sources().chain(self.own.sources()).collect();
        all.sort_by_key(|(policy, _)| (&policy.namespace, &policy.name));
        all.into_iter()
    }

    fn on_trial(&self) -> Deciding<'_> {
        Deciding::of([&self.shared.on_trial, &self.own.on_trial])
    }

    fn audit(&self) -> Both<'_> {
        Both([&self.shared.audit, &self.own.audit])
    }

    /// Whether there is no policy to ask.
    pub fn is_none(&self) -> bool {
        self.enforced().are_none() && self.on_trial().are_none() && self.audit().are_none()
    }

    /// What is known before a request, if one will come.
    pub fn of_connection(&self, connection: &Connection<'_>) -> Verdict {
        self.enforced().of_connection(connection)
    }

    /// Whether bytes that are no HTTP may pass, or whose decision must be had first; `approved` is the provider that has
    /// let the connection in.
    ///
    /// Rules that ask for parts of a request never let them in, and always keep them out: nobody can be asked about a
    /// request that there is not.
    pub fn of_bytes(&self, connection: &Connection<'_>, approved: Option<&str>) -> Result<Judgement, Denial> {
        self.enforced().of_bytes(connection, approved)
    }

    /// The CUSTOM policies in force that might ask somebody about a connection to `port`.
    pub fn asking_about(&self, port: u16) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        let entries = self.enforced().custom.entries();
        entries
            .filter(move |entry| entry.may_concern(port))
            .map(|entry| &entry.policy)
    }

    /// Whether a request may pass, or whose decision must be had first; `approved` is the provider that has let it in.
    pub fn of_request(
        &self,
        connection: &Connection<'_>,
        request: &Request<'_>,
        approved: Option<&str>,
    ) -> Result<Judgement, Denial> {
        self.enforced().of_request(connection, request, approved)
    }

    /// Whether there is a policy that only records.
    pub fn records(&self) -> bool {
        !(self.on_trial().are_none() && self.audit().are_none())
    }

    /// What is only to be recorded of a request, or of a connection whose bytes are no HTTP.
    pub fn recorded(&self, connection: &Connection<'_>, request: Option<&Request<'_>>) -> Recorded {
        let trial = self.on_trial();
        let dry_run = (!trial.are_none()).then(|| {
            let decided = match request {
                Some(request) => trial.of_request(connection, request, None),
                None => trial.of_bytes(connection, None),
            };
            match decided {
                Ok(_) => DryRun::WouldAllow,
                Err(_denial) => DryRun::WouldDeny,
            }
        });
        let content = request.map_or(Content::Opaque, Content::Http);
        let audited = self.audit().find(connection, content, Doubt::Holds);
        Recorded {
            is_audited: audited.holds.or(audited.might).is_some(),
            dry_run,
        }
    }
}

impl<'p> Deciding<'p> {
    fn of(layers: [&'p Actions; 2]) -> Self {
        let both = |rules: fn(&Actions) -> &Rules| Both(layers.map(rules));
        Self {
            custom: both(|actions| &actions.custom),
            deny: both(|actions| &actions.deny),
            allow: both(|actions| &actions.allow),
        }
    }

    fn are_none(&self) -> bool {
        [self.custom, self.deny, self.allow].iter().all(Both::are_none)
    }

    fn of_connection(&self, connection: &Connection<'_>) -> Verdict {
        // Nobody is asked about a connection of which nothing is known; about its requests or its bytes somebody may be.
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

    fn of_bytes(&self, connection: &Connection<'_>, approved: Option<&str>) -> Result<Judgement, Denial> {
        let custom = self.custom.find(connection, Content::Opaque, Doubt::Holds);
        match (custom.holds, custom.might) {
            (Some(entry), _) => {
                if let Some(ask) = wanted(entry, approved)? {
                    return Ok(Judgement::Ask(ask));
                }
            }
            (None, Some(entry)) => return Err(denial(entry)),
            (None, None) => {}
        }
        let denied = self.deny.find(connection, Content::Opaque, Doubt::Holds);
        if let Some(entry) = denied.holds.or(denied.might) {
            return Err(denial(entry));
        }
        self.is_allowed(connection, Content::Opaque)
            .map(|()| Judgement::Allowed)
    }

    fn of_request(
        &self,
        connection: &Connection<'_>,
        request: &Request<'_>,
        approved: Option<&str>,
    ) -> Result<Judgement, Denial> {
        let content = Content::Http(request);
        if let Some(entry) = self.custom.find(connection, content, Doubt::Holds).holds
            && let Some(ask) = wanted(entry, approved)?
        {
            return Ok(Judgement::Ask(ask));
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

/// Who must still let in what a CUSTOM rule matches; `None` where that provider has.
fn wanted(entry: &Entry, approved: Option<&str>) -> Result<Option<Ask>, Denial> {
    match &entry.policy.provider {
        Some(provider) if approved == Some(provider.as_ref()) => Ok(None),
        Some(provider) => Ok(Some(Ask {
            provider: Arc::clone(provider),
            unanswered: denial(entry),
        })),
        None => Err(denial(entry)),
    }
}

fn denial(entry: &Entry) -> Denial {
    Denial::Matched {
        policy: Arc::clone(&entry.policy),
        rule: entry.rule,
    }
}
