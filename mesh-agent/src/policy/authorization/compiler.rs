//! Compiles the policies of workloads, each layer once, and none that was compiled before.
//!
//! Place in the walk: used when a snapshot is built. Must not know: what a rule means.
//!
//! What many policies cost is the policies of whole namespaces: they are compiled once for all pods there, and what is
//! compiled for each pod are the few that select it by label or by Service.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Protection;
use super::layer::Layer;
use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::{AuthorizationPolicy, PolicyAction};
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::policy::selection::{Selected, Selection};

/// One compilation.
#[derive(Debug)]
pub(super) struct Compiler<'c> {
    pub(super) policies: &'c [Arc<AuthorizationPolicy>],
    pub(super) providers: &'c BTreeSet<Arc<str>>,
    pub(super) selection: &'c Selection,
    /// What was compiled before, while the same providers were declared.
    pub(super) previous: Option<&'c HashMap<WorkloadUid, Arc<Protection>>>,
    pub(super) compiled: Compiled,
}

/// The provider that CUSTOM policies of a workload may name.
type Asked = Option<Arc<str>>;

/// What was compiled so far, so that nothing is compiled twice.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    namespaces: HashMap<Arc<str>, Shared>,
    layers: HashMap<(Arc<str>, Asked), Arc<Layer>>,
    /// Pods of one Deployment have one, and so have all of a namespace that have no policy of their own.
    protections: HashMap<(Arc<str>, Selected, Asked), Arc<Protection>>,
    /// Policies of which something cannot be done.
    pub(super) rejections: Vec<Rejection>,
}

/// The policies of a whole namespace.
#[derive(Debug)]
struct Shared {
    selected: Selected,
    /// The first provider that they name, with the place of the policy.
    provider: Option<(usize, Arc<str>)>,
}

impl Compiler<'_> {
    /// The policies that protect `workload`.
    pub(super) fn protection(&mut self, workload: &Workload) -> Arc<Protection> {
        let namespace = &workload.namespace;
        let selected = self.selection.alone(workload);
        let own_provider = self.first_provider(&selected);
        let of_namespace = match self.compiled.namespaces.get(namespace) {
            Some(known) => known.provider.clone(),
            None => self.select_namespace(namespace),
        };
        // The first in the order of all policies of the workload is asked.
        let first = [own_provider, of_namespace]
            .into_iter()
            .flatten()
            .min_by_key(|(place, _)| *place);
        let key = (
            Arc::clone(namespace),
            selected,
            first.map(|(_, provider)| provider),
        );
        if let Some(known) = self.compiled.protections.get(&key) {
            return Arc::clone(known);
        }
        let (_, selected, asked) = &key;
        let shared = self.shared(workload, asked.as_ref());
        let protection = self.own(workload, selected, asked.as_ref(), shared);
        self.report(protection.own.rivals());
        self.compiled.protections.insert(key, Arc::clone(&protection));
        protection
    }

    fn select_namespace(&mut self, namespace: &Arc<str>) -> Option<(usize, Arc<str>)> {
        let selected = self.selection.of_namespace(namespace);
        let provider = self.first_provider(&selected);
        let shared = Shared {
            selected,
            provider: provider.clone(),
        };
        self.compiled.namespaces.insert(Arc::clone(namespace), shared);
        provider
    }

    /// The provider that the first CUSTOM policy in force names, of those that are declared, and the policy's place.
    fn first_provider(&self, selected: &Selected) -> Option<(usize, Arc<str>)> {
        selected.iter().find_map(|(place, _)| {
            let policy = self.policies.get(*place)?;
            let is_asked = policy.action == PolicyAction::Custom && !policy.is_dry_run;
            let provider = policy.provider.as_ref().filter(|_| is_asked)?;
            let declared = self.providers.get(provider)?;
            Some((*place, Arc::clone(declared)))
        })
    }

    /// What the whole namespace of `workload` has in common.
    fn shared(&mut self, workload: &Workload, asked: Option<&Arc<str>>) -> Arc<Layer> {
        let key = (Arc::clone(&workload.namespace), asked.cloned());
        if let Some(known) = self.compiled.layers.get(&key) {
            return Arc::clone(known);
        }
        let none = Selected::new();
        let of_namespace = self.compiled.namespaces.get(&workload.namespace);
        let selected = of_namespace.map_or(&none, |shared| &shared.selected);
        let known = self.known(workload, |known| {
            known.shared.is_of(selected, self.policies, asked)
        });
        let layer = match known {
            Some(known) => Arc::clone(&known.shared),
            None => Arc::new(Layer::compile(selected, self.policies, asked, self.providers)),
        };
        self.report(layer.rivals());
        self.compiled.layers.insert(key, Arc::clone(&layer));
        layer
    }

    /// What is of `workload` alone, on top of `shared`.
    fn own(
        &self,
        workload: &Workload,
        selected: &Selected,
        asked: Option<&Arc<str>>,
        shared: Arc<Layer>,
    ) -> Arc<Protection> {
        let is_same = |known: &Protection| known.own.is_of(selected, self.policies, asked);
        let whole = self.known(workload, |known| {
            Arc::ptr_eq(&known.shared, &shared) && is_same(known)
        });
        if let Some(whole) = whole {
            return Arc::clone(whole);
        }
        let own = match self.known(workload, is_same) {
            Some(known) => Arc::clone(&known.own),
            None => Arc::new(Layer::compile(selected, self.policies, asked, self.providers)),
        };
        Arc::new(Protection { shared, own })
    }

    /// What was compiled before for `workload`, or for another one.
    fn known(&self, workload: &Workload, is_it: impl Fn(&Protection) -> bool) -> Option<&Arc<Protection>> {
        let previous = self.previous?;
        let own = previous.get(&workload.uid);
        own.into_iter()
            .chain(previous.values())
            .find(|known| is_it(known))
    }

    fn report(&mut self, rivals: &[Arc<AuthorizationPolicy>]) {
        let rejections = rivals.iter().map(|policy| {
            policy.meta.reject(
                "spec.provider.name",
                "another CUSTOM policy of a pod that it selects names another provider, and that one counts; \
                 here, what its rules match is refused",
            )
        });
        self.compiled.rejections.extend(rejections);
    }
}
