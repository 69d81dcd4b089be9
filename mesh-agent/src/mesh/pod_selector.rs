//! Pods that stand behind a host of a ServiceEntry: its `workloadSelector`.
//!
//! Place in the walk: translation writes it, a snapshot finds the pods. Must not know: which pods there are.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Pods of the entry's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSelector {
    /// All of them must be on a pod; never empty.
    pub labels: BTreeMap<String, String>,
    /// The name of each port of the entry, and where pods listen for it.
    pub targets: Vec<(Arc<str>, u16)>,
}

impl PodSelector {
    /// Whether it selects a pod with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut wanted = self.labels.iter();
        wanted.all(|(name, value)| labels.get(name) == Some(value))
    }
}
