//! The rules of some of a workload's policies: those that its whole namespace shares, or those that are its own.
//!
//! Place in the walk: part of [`super::Protection`]. Must not know: connections, requests, which workload it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::rules::Rules;
use crate::mesh::policy::authorization::{AuthorizationPolicy, PolicyAction};
use crate::policy::selection::Selected;

/// Policies of one or of many workloads, compiled once for all of them.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// What it was compiled from.
    sources: Vec<(Arc<AuthorizationPolicy>, Option<BTreeSet<u16>>)>,
    /// The provider that CUSTOM policies of the workload may name.
    asked: Option<Arc<str>>,
    pub(super) enforced: Actions,
    pub(super) on_trial: Actions,
    pub(super) audit: Rules,
    rivals: Vec<Arc<AuthorizationPolicy>>,
}

/// The policies that decide, by action.
#[derive(Debug, Default)]
pub(super) struct Actions {
    pub(super) custom: Rules,
    pub(super) deny: Rules,
    pub(super) allow: Rules,
}

impl Layer {
    /// A CUSTOM policy that names another provider than `asked` refuses what it matches.
    pub(super) fn compile(
        selected: &Selected,
        policies: &[Arc<AuthorizationPolicy>],
        asked: Option<&Arc<str>>,
        providers: &BTreeSet<Arc<str>>,
    ) -> Self {
        let mut layer = Self {
            asked: asked.cloned(),
            ..Self::default()
        };
        for (policy, ports) in selected {
            let Some(policy) = policies.get(*policy) else {
                continue;
            };
            layer.sources.push((Arc::clone(policy), ports.clone()));
            let actions = if policy.is_dry_run {
                &mut layer.on_trial
            } else {
                &mut layer.enforced
            };
            let rules = match policy.action {
                // Its provider is asked in earnest or not at all; the translation has said so.
                PolicyAction::Custom if policy.is_dry_run => continue,
                PolicyAction::Custom => match policy.provider.as_ref() {
                    Some(provider) if Some(provider) == asked => &mut actions.custom,
                    Some(provider) if providers.contains(provider) => {
                        layer.rivals.push(Arc::clone(policy));
                        &mut actions.deny
                    }
                    Some(_) | None => &mut actions.deny,
                },
                PolicyAction::Deny => &mut actions.deny,
                PolicyAction::Allow => &mut actions.allow,
                PolicyAction::Audit => &mut layer.audit,
            };
            rules.add(policy, ports.as_ref());
        }
        layer
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
    pub(super) fn is_of(
        &self,
        selected: &Selected,
        policies: &[Arc<AuthorizationPolicy>],
        asked: Option<&Arc<str>>,
    ) -> bool {
        self.asked.as_ref() == asked
            && self.sources.len() == selected.len()
            && selected
                .iter()
                .zip(&self.sources)
                .all(|((policy, ports), (known, on))| {
                    policies
                        .get(*policy)
                        .is_some_and(|policy| Arc::ptr_eq(known, policy) && on == ports)
                })
    }
}
