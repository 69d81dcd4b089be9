//! Which policies protect which workloads.
//!
//! Place in the walk: used when a snapshot is built. Must not know: rules, connections.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::mesh::facts::{ObjectMeta, Rejection};
use crate::mesh::policy::authorization::PolicyTarget;
use crate::mesh::service::ServiceName;
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::policy::selects;

/// What is asked of a policy here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targeted<'p> {
    pub(super) namespace: &'p Arc<str>,
    pub(super) target: &'p PolicyTarget,
    pub(super) meta: &'p ObjectMeta,
}

/// Policies by what they select; a policy is its index.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// By their selectors, which tell as long as the policies are the same.
    scopes: Arc<Scopes>,
    /// By the pods behind their Services.
    by_pod: HashMap<WorkloadUid, BTreeMap<usize, BTreeSet<u16>>>,
}

/// Policies with a selector, by where they act.
#[derive(Debug, Default)]
struct Scopes {
    /// Those of the root namespace: they act in all.
    mesh: Scope,
    namespaces: HashMap<Arc<str>, Scope>,
}

/// The policies of one namespace.
#[derive(Debug, Default)]
struct Scope {
    everybody: Vec<usize>,
    /// By the first label of their selector, so that one workload looks at few of many.
    by_label: HashMap<(String, String), Vec<Selective>>,
}

#[derive(Debug)]
struct Selective {
    policy: usize,
    selector: BTreeMap<String, String>,
}

/// The policies of one workload in their order, each with the ports on which it acts; `None` is all.
pub(super) type Selected = Vec<(usize, Option<BTreeSet<u16>>)>;

impl Selection {
    /// Indexes `policies`, each named by its place in their order; `previous` is an index of these very ones, whatever was
    /// behind Services then.
    pub(super) fn index<'p>(
        policies: impl Iterator<Item = Targeted<'p>> + Clone,
        root_namespace: &str,
        pods: impl Fn(&ServiceName) -> Option<Vec<(WorkloadUid, u16)>>,
        previous: Option<&Self>,
    ) -> (Self, Vec<Rejection>) {
        let scopes = previous.map(|previous| Arc::clone(&previous.scopes));
        let mut index = Self {
            scopes: scopes.unwrap_or_else(|| Arc::new(Scopes::index(policies.clone(), root_namespace))),
            by_pod: HashMap::new(),
        };
        let mut rejections = Vec::new();
        for (policy, declared) in policies.enumerate() {
            let PolicyTarget::Services(services) = declared.target else {
                continue;
            };
            for service in services {
                match pods(service) {
                    Some(pods) => index.add_pods(policy, pods),
                    None => rejections.push(declared.meta.reject(
                        "spec.targetRefs",
                        format!("Service {service} is not known; the policy protects no pod of it"),
                    )),
                }
            }
        }
        (index, rejections)
    }

    /// The policies of `workload`.
    pub(super) fn of(&self, workload: &Workload) -> Selected {
        let mut selected = self.alone(workload);
        selected.extend(self.everybody(&workload.namespace));
        // A policy has one kind of target, a root namespace is no other, and a label has one value: none comes twice.
        selected.sort_by_key(|(policy, _)| *policy);
        selected
    }

    /// The policies of every workload of a namespace.
    pub(super) fn of_namespace(&self, namespace: &str) -> Selected {
        let mut selected: Selected = self.everybody(namespace).collect();
        selected.sort_by_key(|(policy, _)| *policy);
        selected
    }

    /// The policies of `workload` that are not those of its whole namespace: they name its labels, or a Service before
    /// it.
    pub(super) fn alone(&self, workload: &Workload) -> Selected {
        let by_pod = self.by_pod.get(&workload.uid).into_iter().flatten();
        let mut selected: Selected = by_pod
            .map(|(policy, ports)| (*policy, Some(ports.clone())))
            .collect();
        let by_label = self.scopes.of(&workload.namespace);
        let by_label = by_label.flat_map(|scope| scope.of_labels(workload));
        selected.extend(by_label.map(|policy| (policy, None)));
        selected.sort_by_key(|(policy, _)| *policy);
        selected
    }

    fn everybody(&self, namespace: &str) -> impl Iterator<Item = (usize, Option<BTreeSet<u16>>)> {
        let scopes = self.scopes.of(namespace);
        scopes.flat_map(|scope| scope.everybody.iter().map(|policy| (*policy, None)))
    }

    fn add_pods(&mut self, policy: usize, pods: Vec<(WorkloadUid, u16)>) {
        for (pod, port) in pods {
            let ports = self.by_pod.entry(pod).or_default().entry(policy).or_default();
            ports.insert(port);
        }
    }
}

impl Scopes {
    fn index<'p>(policies: impl Iterator<Item = Targeted<'p>>, root_namespace: &str) -> Self {
        let mut index = Self::default();
        for (policy, declared) in policies.enumerate() {
            let PolicyTarget::Selector(selector) = declared.target else {
                continue;
            };
            let scope = if declared.namespace.as_ref() == root_namespace {
                &mut index.mesh
            } else {
                let namespace = Arc::clone(declared.namespace);
                index.namespaces.entry(namespace).or_default()
            };
            scope.add(policy, selector);
        }
        index
    }

    /// Where policies of workloads of `namespace` are.
    fn of(&self, namespace: &str) -> impl Iterator<Item = &Scope> {
        [Some(&self.mesh), self.namespaces.get(namespace)]
            .into_iter()
            .flatten()
    }
}

impl Scope {
    fn add(&mut self, policy: usize, selector: &BTreeMap<String, String>) {
        match selector.first_key_value() {
            None => self.everybody.push(policy),
            Some((key, value)) => {
                let first = (key.clone(), value.clone());
                self.by_label.entry(first).or_default().push(Selective {
                    policy,
                    selector: selector.clone(),
                });
            }
        }
    }

    fn of_labels<'s>(&'s self, workload: &'s Workload) -> impl Iterator<Item = usize> + 's {
        let labels = workload.labels.iter();
        labels
            .filter_map(|(key, value)| self.by_label.get(&(key.clone(), value.clone())))
            .flatten()
            .filter(|selective| selects(&selective.selector, workload))
            .map(|selective| selective.policy)
    }
}
