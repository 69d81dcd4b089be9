//! Decides what a connection must prove, in [`authentication`] whom a request proves, in [`authorization`] what it may then
//! ask, and in [`rate_limit`] how often: policies compiled into one answer for each workload.
//!
//! Place in the walk: after detection has told mTLS from plaintext, before routing. Must not know: certificates,
//! sockets, or how policies were read.

pub mod authentication;
pub mod authorization;
pub mod rate_limit;
mod selection;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::mesh::facts::Rejection;
use crate::mesh::identity::SpiffeId;
use crate::mesh::policy::{MtlsMode, PeerAuthentication};
use crate::mesh::workload::Workload;

/// All PeerAuthentication policies, the most specific first: workload port, workload, namespace, mesh.
#[derive(Debug, Default)]
pub struct MtlsPolicy {
    mesh: Option<MtlsMode>,
    namespaces: HashMap<Arc<str>, NamespacePolicy>,
}

/// The policies of one namespace.
#[derive(Debug, Default)]
struct NamespacePolicy {
    /// The mode of the policy without selector, if there is one and it says something.
    mode: Option<MtlsMode>,
    /// Policies with a selector, the eldest first.
    selective: Vec<SelectivePolicy>,
}

#[derive(Debug)]
struct SelectivePolicy {
    selector: BTreeMap<String, String>,
    mode: Option<MtlsMode>,
    port_modes: BTreeMap<u16, Option<MtlsMode>>,
}

impl MtlsPolicy {
    /// Compiles all policies; of two for the same workloads the elder wins, and the younger is rejected.
    ///
    /// Two policies with different selectors may meet in one of `workloads`: the elder wins there, and the younger
    /// is reported but goes on serving the workloads that it selects alone.
    pub fn compile<'w>(
        policies: &[PeerAuthentication],
        root_namespace: &str,
        workloads: impl IntoIterator<Item = &'w Workload>,
    ) -> (Self, Vec<Rejection>) {
        let mut compiled = Self::default();
        let mut rejections = overlaps(policies, workloads);
        let mut settled = HashSet::new();
        for policy in by_seniority(policies) {
            let of_namespace = compiled
                .namespaces
                .entry(Arc::clone(&policy.namespace))
                .or_default();
            if !policy.selector.is_empty() {
                of_namespace.selective.push(SelectivePolicy {
                    selector: policy.selector.clone(),
                    mode: policy.mode,
                    port_modes: policy.port_modes.clone(),
                });
            } else if settled.insert(&policy.namespace) {
                of_namespace.mode = policy.mode;
            } else {
                rejections.push(policy.meta.reject(
                    "spec.selector",
                    "an older PeerAuthentication without selector is in force for this namespace; remove one",
                ));
            }
        }
        compiled.mesh = compiled.namespaces.get(root_namespace).and_then(|root| root.mode);
        (compiled, rejections)
    }

    /// What `workload` accepts on `port`; PERMISSIVE where nothing is said.
    pub fn mode(&self, workload: &Workload, port: u16) -> MtlsMode {
        let namespace = self.namespaces.get(&workload.namespace);
        let selective = namespace.and_then(|namespace| {
            namespace
                .selective
                .iter()
                .find(|policy| selects(&policy.selector, workload))
        });
        let of_port = selective.and_then(|policy| policy.port_modes.get(&port).copied().flatten());
        of_port
            .or_else(|| selective.and_then(|policy| policy.mode))
            .or_else(|| namespace.and_then(|namespace| namespace.mode))
            .or(self.mesh)
            .unwrap_or(MtlsMode::Permissive)
    }

    /// Who policies see behind a connection to `port` of `workload`, of the one who is known to be there: nobody where
    /// mTLS is switched off, whatever the path, since in plaintext nobody proves anything.
    pub fn proven<'p>(
        &self,
        peer: Option<&'p SpiffeId>,
        workload: &Workload,
        port: u16,
    ) -> Option<&'p SpiffeId> {
        peer.filter(|_| self.mode(workload, port) != MtlsMode::Disable)
    }
}

fn by_seniority(policies: &[PeerAuthentication]) -> Vec<&PeerAuthentication> {
    let mut sorted: Vec<_> = policies.iter().collect();
    sorted.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
    sorted
}

fn selects(selector: &BTreeMap<String, String>, workload: &Workload) -> bool {
    selector
        .iter()
        .all(|(key, value)| workload.labels.get(key) == Some(value))
}

/// A rejection of each policy that is not the eldest for one of the workloads that it selects.
fn overlaps<'w>(
    policies: &[PeerAuthentication],
    workloads: impl IntoIterator<Item = &'w Workload>,
) -> Vec<Rejection> {
    let mut by_namespace: HashMap<&str, Vec<&PeerAuthentication>> = HashMap::new();
    for policy in by_seniority(policies)
        .into_iter()
        .filter(|policy| !policy.selector.is_empty())
    {
        by_namespace.entry(&policy.namespace).or_default().push(policy);
    }
    let mut overlapping: BTreeMap<Arc<str>, Rejection> = BTreeMap::new();
    for workload in workloads {
        let of_namespace = by_namespace
            .get(workload.namespace.as_ref())
            .into_iter()
            .flatten();
        let mut selecting = of_namespace.filter(|policy| selects(&policy.selector, workload));
        let Some(eldest) = selecting.next() else { continue };
        for younger in selecting {
            overlapping.entry(Arc::clone(&younger.meta.object)).or_insert_with(|| {
                younger.meta.reject(
                    "spec.selector",
                    format!(
                        "selects pod {}/{} too, for which the older {} is in force; make the selectors disjoint",
                        workload.namespace, workload.pod_name, eldest.meta.object,
                    ),
                )
            });
        }
    }
    overlapping.into_values().collect()
}

#[cfg(test)]
mod tests;
