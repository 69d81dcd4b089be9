//! Pods of the node that are left out on purpose although their namespace takes part, and why.
//!
//! Place in the walk: none; the status page shows them. Must not know: how pods are captured.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mesh::workload::Workload;

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutsidePod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub pod: String,
    /// What leaves it out.
    pub why: String,
}

impl OutsidePod {
    /// Those of `node` in namespaces that are `meshed`, by name.
    pub fn all_of<'w>(
        node: &str,
        meshed: &BTreeSet<Arc<str>>,
        workloads: impl IntoIterator<Item = &'w Workload>,
    ) -> Vec<Self> {
        let outside = workloads.into_iter().filter(|workload| {
            &*workload.node == node && !workload.is_enrolled() && meshed.contains(&workload.namespace)
        });
        let mut pods: Vec<_> = outside
            .map(|workload| Self {
                namespace: workload.namespace.to_string(),
                pod: workload.pod_name.to_string(),
                why: why(workload).to_owned(),
            })
            .collect();
        pods.sort();
        pods
    }
}

fn why(workload: &Workload) -> &'static str {
    if workload.host_network {
        "of the host network, which is never captured"
    } else {
        "its label mesh-agent.dev/dataplane says disabled"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::workload::Membership;
    use crate::mesh::workload::fixture::pod;

    fn outside(namespace: &str, name: &str) -> Workload {
        Workload {
            membership: Membership::Outside,
            ..pod(namespace, name)
        }
    }

    #[test]
    fn who_is_left_out_of_a_namespace_that_takes_part_is_named_with_the_reason() {
        let host = Workload {
            host_network: true,
            ..outside("shop", "host")
        };
        let elsewhere = Workload {
            node: "node-b".into(),
            ..outside("shop", "elsewhere")
        };
        let known = [
            pod("shop", "captured"),
            outside("shop", "opts-out"),
            host,
            elsewhere,
            outside("other", "nobody-asked"),
        ];
        let found = OutsidePod::all_of("node-a", &["shop".into()].into(), &known);
        let found: Vec<_> = found.iter().map(|pod| (&*pod.pod, &*pod.why)).collect();
        assert_eq!(
            found,
            [
                ("host", "of the host network, which is never captured"),
                ("opts-out", "its label mesh-agent.dev/dataplane says disabled"),
            ]
        );
    }
}
