//! Decides who may ask what of a workload: AuthorizationPolicy compiled into one list for each workload of this node.
//!
//! Place in the walk: at the destination, after the peer has proved who it is; for HTTP once a request. Must not know:
//! sockets, certificates, how policies were read, or whether the client is on this node.

mod aliases;
mod asked;
mod compiler;
mod layer;
mod matcher;
mod protection;
mod rules;
mod shown;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

pub use self::aliases::widened;
pub use self::asked::{Connection, Host, Request};
use self::compiler::{Compiled, Compiler};
pub use self::matcher::Unmet;
pub use self::protection::Protection;
pub use self::shown::Shown;
pub use self::trial::{PolicyTrial, RuleTrial};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::{AuthorizationPolicy, PolicyAction};
use crate::mesh::service::ServiceName;
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::policy::selection::{Selection, Targeted};

/// All AuthorizationPolicies, and those of each workload of this node.
#[derive(Debug, Default)]
pub struct Authorization {
    policies: Arc<[Arc<AuthorizationPolicy>]>,
    selection: Selection,
    of_workload: HashMap<WorkloadUid, Arc<Protection>>,
    /// Those that CUSTOM policies may name.
    providers: BTreeSet<Arc<str>>,
}

impl Authorization {
    /// Compiles all policies; `local` are the workloads that will be asked about often, and `pods` tells which ports of
    /// which workloads stand behind a Service, `None` where there is no such Service. `providers` are the external
    /// services that are declared.
    ///
    /// What has not changed since `previous`, which was compiled for the same root namespace, is taken over: policies,
    /// their index, and, as long as the same providers are declared, the lists of each namespace and of each workload that
    /// the same policies protect.
    pub fn compile<'w>(
        policies: &[AuthorizationPolicy],
        root_namespace: &str,
        providers: BTreeSet<Arc<str>>,
        local: impl Iterator<Item = &'w Workload>,
        pods: impl Fn(&ServiceName) -> Option<Vec<(WorkloadUid, u16)>>,
        previous: Option<&Self>,
    ) -> (Self, Vec<Rejection>) {
        let policies = sorted(policies, previous);
        let before = previous.filter(|previous| Arc::ptr_eq(&previous.policies, &policies));
        let before = before.map(|previous| &previous.selection);
        let targeted = policies.iter().map(|policy| Targeted {
            namespace: &policy.namespace,
            target: &policy.target,
            meta: &policy.meta,
        });
        let (selection, mut rejections) = Selection::index(targeted, root_namespace, pods, before);
        rejections.extend(
            policies
                .iter()
                .filter_map(|policy| undeclared(policy, &providers)),
        );
        let same = previous.filter(|previous| previous.providers == providers);
        let mut compiler = Compiler {
            policies: &policies,
            providers: &providers,
            selection: &selection,
            previous: same.map(|previous| &previous.of_workload),
            compiled: Compiled::default(),
        };
        let of_workload = local
            .map(|workload| (workload.uid.clone(), compiler.protection(workload)))
            .collect();
        rejections.append(&mut compiler.compiled.rejections);
        let compiled = Self {
            policies,
            selection,
            of_workload,
            providers,
        };
        (compiled, rejections)
    }

    /// The policies that protect `workload`; compiled for the occasion for one that the snapshot does not count as this
    /// node's, so that a connection to a pod on its way out is not judged by no policy.
    pub fn of(&self, workload: &Workload) -> Arc<Protection> {
        if let Some(known) = self.of_workload.get(&workload.uid) {
            return Arc::clone(known);
        }
        let mut compiler = Compiler {
            policies: &self.policies,
            providers: &self.providers,
            selection: &self.selection,
            previous: Some(&self.of_workload),
            compiled: Compiled::default(),
        };
        compiler.protection(workload)
    }
}

/// By namespace and name: which rule is named for a refusal must not depend on the order of the facts. What equals a
/// policy of `previous` is that policy, and where all do it is the same list.
fn sorted(
    declared: &[AuthorizationPolicy],
    previous: Option<&Authorization>,
) -> Arc<[Arc<AuthorizationPolicy>]> {
    let mut declared: Vec<_> = declared.iter().collect();
    declared.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let known = previous.map(|previous| &previous.policies);
    let mut rest = known.map_or([].as_slice(), |known| known).iter().peekable();
    let policies: Arc<[_]> = declared
        .into_iter()
        .map(|policy| {
            let name = (&policy.namespace, &policy.name);
            while rest
                .next_if(|known| (&known.namespace, &known.name) < name)
                .is_some()
            {}
            match rest.next_if(|known| ***known == *policy) {
                Some(known) => Arc::clone(known),
                None => Arc::new(policy.clone()),
            }
        })
        .collect();
    match known {
        Some(known) if are_same(known, &policies) => Arc::clone(known),
        Some(_) | None => policies,
    }
}

fn are_same(some: &[Arc<AuthorizationPolicy>], others: &[Arc<AuthorizationPolicy>]) -> bool {
    some.len() == others.len()
        && some
            .iter()
            .zip(others)
            .all(|(one, other)| Arc::ptr_eq(one, other))
}

/// A report of a CUSTOM policy whose provider nobody declared.
fn undeclared(policy: &AuthorizationPolicy, providers: &BTreeSet<Arc<str>>) -> Option<Rejection> {
    let provider = policy.provider.as_ref()?;
    let is_declared = policy.action != PolicyAction::Custom || providers.contains(provider);
    (!is_declared).then(|| {
        policy.meta.reject(
            "spec.provider.name",
            "no such extension provider is declared in the ConfigMap istio of the root namespace; what its rules match \
             is refused",
        )
    })
}

/// What the policies of a workload say of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Whatever is sent on it, it may.
    Allowed,
    /// Whatever is sent on it, it may not.
    Denied(Denial),
    /// What is sent on it decides: each HTTP request must be asked about, or the bytes that are no HTTP.
    NeedsRequests,
}

/// What they say of a request, or of bytes that are no HTTP, which they do not refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Judgement {
    /// It is let in.
    Allowed,
    /// Somebody must let it in first; then the rest is judged.
    Ask(Ask),
}

/// Who must let a request in, or a connection of other bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The extension provider, one that is declared.
    pub provider: Arc<str>,
    /// Why it is refused where nobody can be asked.
    pub unanswered: Denial,
}

/// Why policy refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// A rule of a DENY or CUSTOM policy matches.
    Matched {
        /// The policy.
        policy: Arc<AuthorizationPolicy>,
        /// The index of the rule.
        rule: usize,
    },
    /// There are ALLOW policies, and none matches.
    NotAllowed,
}

/// In Envoy's words: `rbac_access_denied_matched_policy[…]`.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched { policy, rule } => write!(
                f,
                "rbac_access_denied_matched_policy[ns[{}]-policy[{}]-rule[{rule}]]",
                policy.namespace, policy.name
            ),
            Self::NotAllowed => f.write_str("rbac_access_denied_matched_policy[none]"),
        }
    }
}

/// What is only recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// An AUDIT policy matches.
    pub is_audited: bool,
    /// What the policies on trial would have decided alone; `None` where there are none.
    pub dry_run: Option<DryRun>,
}

/// What the policies with the dry-run annotation would have decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DryRun {
    /// They would have let it in.
    WouldAllow,
    /// They would have refused it.
    WouldDeny,
}
