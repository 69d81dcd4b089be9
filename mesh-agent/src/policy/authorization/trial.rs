//! How each policy of a workload fares with one request or connection, for whoever asks why it was decided so.
//!
//! Place in the walk: none; it asks what [`super::Protection`] asks, of all rules instead of the first that decides. Must
//! not know: which workload it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::asked::{Connection, Content, Request};
use super::matcher::{self, Doubt, Match, Unmet};
use super::{Protection, Shown};
use crate::mesh::policy::authorization::{AuthorizationPolicy, PolicyAction};

/// One policy, held against what is asked.
#[derive(Debug)]
pub struct PolicyTrial<'p> {
    /// The policy.
    pub policy: &'p AuthorizationPolicy,
    /// Whether it acts on the port.
    pub acts_on_port: bool,
    /// Its rules, in order.
    pub rules: Vec<RuleTrial<'p>>,
}

/// One rule of it.
#[derive(Debug)]
pub struct RuleTrial<'p> {
    /// Whether it counts as a match.
    pub matches: bool,
    /// Why it does not hold.
    pub unmet: Vec<Unmet<'p>>,
}

impl PolicyTrial<'_> {
    /// Whether one of its rules counts as a match where it acts.
    pub fn matches(&self) -> bool {
        self.acts_on_port && self.rules.iter().any(|rule| rule.matches)
    }
}

impl Protection {
    /// How each policy fares with a request, or without one with bytes that are no HTTP; each when its turn comes.
    pub fn trials<'p>(
        &'p self,
        connection: &'p Connection<'_>,
        request: Option<&'p Request<'_>>,
    ) -> impl Iterator<Item = PolicyTrial<'p>> {
        let content = request.map_or(Content::Opaque, Content::Http);
        self.sources()
            .map(move |(policy, ports)| trial(policy, ports, connection, content))
    }
}

fn trial<'p>(
    policy: &'p Arc<AuthorizationPolicy>,
    ports: Option<&BTreeSet<u16>>,
    connection: &Connection<'_>,
    content: Content<'_>,
) -> PolicyTrial<'p> {
    let doubt = match policy.action {
        PolicyAction::Allow => Doubt::Fails,
        PolicyAction::Custom | PolicyAction::Deny | PolicyAction::Audit => Doubt::Holds,
    };
    let rules = policy.rules.iter().map(|rule| RuleTrial {
        matches: match matcher::rule(rule, connection, content, doubt) {
            Match::Yes => true,
            // What only a request could tell is held against bytes, never for them.
            Match::NeedsRequest => doubt == Doubt::Holds,
            Match::No => false,
        },
        unmet: matcher::unmet(rule, connection, content, doubt),
    });
    PolicyTrial {
        policy,
        acts_on_port: ports.is_none_or(|ports| ports.contains(&connection.port)),
        rules: rules.collect(),
    }
}

/// As `from[0]: principals is not one of a, b`.
impl std::fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (part, alternative) = (self.part, self.alternative);
        match part {
            "when" => write!(f, "when: ")?,
            _ => write!(f, "{part}[{alternative}]: ")?,
        }
        if self.needs_request {
            return write!(f, "only a request could tell whether {}", Shown(self.condition));
        }
        write!(f, "not so: {}", Shown(self.condition))
    }
}
