//! A Service with its ports, as all its clients use them and as some do.
//!
//! Place in the walk: what an address or a route's backend leads to. Must not know: how rules are chosen.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter;
use std::sync::Arc;

use super::upstream::Upstream;
use crate::mesh::export::Export;

#[derive(Debug)]
pub(super) struct KnownService {
    pub(super) is_headless: bool,
    pub(super) exported_to: Export,
    /// For all clients without a view of their own.
    pub(super) common: Ports,
    /// For clients for whom another DestinationRule acts; mostly none.
    pub(super) views: Vec<View>,
    /// What a DestinationRule calls some of the endpoints, for whomever it acts.
    pub(super) subset_names: HashSet<Arc<str>>,
}

/// The ports of a Service; they count, limit and eject for themselves.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) whole: BTreeMap<u16, Arc<Upstream>>,
    /// The same ports with some of the endpoints, by the name that a DestinationRule gives these.
    pub(super) subsets: HashMap<Arc<str>, BTreeMap<u16, Arc<Upstream>>>,
}

/// A Service as a DestinationRule shows it to some clients.
#[derive(Debug)]
pub(super) struct View {
    /// The rule's `Kind NAMESPACE/NAME`.
    pub(super) rule: Arc<str>,
    /// Classes of local pods.
    pub(super) classes: Vec<usize>,
    pub(super) ports: Ports,
}

impl KnownService {
    /// For clients of a class; `None` for one for which no rule acts.
    pub(super) fn ports_of(&self, class: impl FnOnce() -> Option<usize>) -> &Ports {
        if self.views.is_empty() {
            return &self.common;
        }
        let class = class();
        let mut views = self.views.iter();
        let own = views.find(|view| class.is_some_and(|class| view.classes.contains(&class)));
        own.map_or(&self.common, |view| &view.ports)
    }

    /// What a rule shows to those for whom it acts.
    pub(super) fn view(&self, rule: &str) -> Option<&Ports> {
        let view = self.views.iter().find(|view| *view.rule == *rule)?;
        Some(&view.ports)
    }

    /// All, those of subsets and of views too.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let views = self.views.iter().map(|view| &view.ports);
        iter::once(&self.common).chain(views).flat_map(|ports| {
            let of_subsets = ports.subsets.values().flat_map(BTreeMap::values);
            ports.whole.values().chain(of_subsets)
        })
    }
}

impl Ports {
    /// A port, or of a subset of the endpoints.
    pub(super) fn get(&self, port: u16, subset: Option<&str>) -> Option<&Arc<Upstream>> {
        match subset {
            None => self.whole.get(&port),
            Some(subset) => self.subsets.get(subset)?.get(&port),
        }
    }
}
