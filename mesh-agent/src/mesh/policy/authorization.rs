//! Istio's `AuthorizationPolicy` (security.istio.io/v1) in declared form: who may ask what of which workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::mesh::exclusions::Cidr;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::service::ServiceName;

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// `metadata.namespace`; policies of the root namespace act in the whole mesh.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// The workloads that it protects.
    pub target: PolicyTarget,
    /// What becomes of what its rules match.
    pub action: PolicyAction,
    /// `spec.provider.name`: who is asked about what a CUSTOM policy matches; `None` for any other action, and for one
    /// that names nobody.
    pub provider: Option<Arc<str>>,
    /// Any of them may match; a policy without rules matches nothing.
    pub rules: Vec<PolicyRule>,
    /// Annotation `istio.io/dry-run: "true"`: evaluated and counted, never enforced.
    pub is_dry_run: bool,
}

/// The workloads that a policy protects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyTarget {
    /// `spec.selector.matchLabels`: pods of the policy's namespace, for one of the root namespace those of all; empty
    /// means each of them.
    Selector(BTreeMap<String, String>),
    /// `spec.targetRefs`: the pods behind these Services of the policy's namespace, on the ports that lead there.
    Services(BTreeSet<ServiceName>),
}

/// What becomes of what a policy's rules match; the order is that of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyAction {
    /// The policy's provider decides about it, before all other policies.
    Custom,
    /// It is refused.
    Deny,
    /// It is let in; what no ALLOW policy of the workload matches is refused.
    Allow,
    /// It is counted.
    Audit,
}

impl PolicyAction {
    /// As Istio writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "CUSTOM",
            Self::Deny => "DENY",
            Self::Allow => "ALLOW",
            Self::Audit => "AUDIT",
        }
    }
}

/// One rule: somebody of `from` does something of `to`, and all of `when` hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRule {
    /// Sources, of which one must hold in all of its conditions; none means anybody.
    pub from: Vec<Vec<Condition>>,
    /// Operations, of which one must hold in all of its conditions; none means anything.
    pub to: Vec<Vec<Condition>>,
    /// All of them must hold.
    pub when: Vec<Condition>,
}

/// One thing that is asked of a connection or request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Of a name.
    Text {
        /// Which one.
        of: TextAttribute,
        /// What it must be, and must not be.
        values: Values<TextMatch>,
    },
    /// Of an address.
    Address {
        /// Which one.
        of: AddressAttribute,
        /// Where it must lie, and must not lie.
        values: Values<Cidr>,
    },
    /// Of the port of the workload.
    Port(Values<u16>),
    /// Something that this agent cannot know, or that could not be read: an ALLOW rule with it never matches, and any
    /// other rule matches as if it were not there, so that both err towards refusing.
    Unknowable,
}

/// What is listed under a field (`any`) and under its `not` twin (`none`); an empty list asks nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values<T> {
    /// One of them must match.
    pub any: Vec<T>,
    /// None of them may match.
    pub none: Vec<T>,
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

/// A name that policies ask for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextAttribute {
    /// The peer's proven identity, without `spiffe://`.
    Principal,
    /// The namespace of that identity.
    Namespace,
    /// `NAMESPACE/NAME` of that identity.
    ServiceAccount,
    /// The trust domain of that identity.
    TrustDomain,
    /// The request's authority: matched in lower case, without a trailing dot, with and without its port.
    Host,
    /// The request's method.
    Method,
    /// The request's path in its normal form, without its query.
    Path,
    /// A request header, by its lower-case name.
    Header(Arc<str>),
    /// `ISSUER/SUBJECT` of the request's verified token.
    RequestPrincipal,
    /// One of the token's audiences.
    Audience,
    /// To whom the token was issued (`azp`).
    Presenter,
    /// A claim of the token, or one of its texts if it is a list: names from the outside in.
    Claim(Arc<[Arc<str>]>),
}

/// An address that policies ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressAttribute {
    /// The peer of the connection.
    Source,
    /// The client before all proxies: the last entry of `x-forwarded-for`, else the peer.
    Remote,
    /// The workload's own address that was dialled.
    Destination,
}

impl Condition {
    /// Whether only an HTTP request tells.
    pub fn is_of_requests(&self) -> bool {
        match self {
            Self::Text { of, .. } => match of {
                TextAttribute::Host
                | TextAttribute::Method
                | TextAttribute::Path
                | TextAttribute::Header(_)
                | TextAttribute::RequestPrincipal
                | TextAttribute::Audience
                | TextAttribute::Presenter
                | TextAttribute::Claim(_) => true,
                TextAttribute::Principal
                | TextAttribute::Namespace
                | TextAttribute::ServiceAccount
                | TextAttribute::TrustDomain => false,
            },
            Self::Address { of, .. } => match of {
                AddressAttribute::Remote => true,
                AddressAttribute::Source | AddressAttribute::Destination => false,
            },
            Self::Port(_) | Self::Unknowable => false,
        }
    }
}

/// How Istio writes a match of a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextMatch {
    /// The whole of it.
    Exact(Arc<str>),
    /// `abc*`.
    Prefix(Arc<str>),
    /// `*abc`.
    Suffix(Arc<str>),
    /// `*`: there is one, and it is not empty.
    Present,
    /// A path of which `{*}` stands for one segment and `{**}` for any number of them.
    Template(Arc<[Segment]>),
}

/// One part of a path template, between two slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Itself.
    Literal(Arc<str>),
    /// `{*}`: one segment that is not empty.
    One,
    /// `{**}`: what lies between its slashes, slashes included; may be empty. At most one in a template.
    Rest,
}
