//! Names, and what the pods of one template say alike, each kept once.
//!
//! Place in the walk: beside the store. Must not know: what is named.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::mesh::exclusions::Exclusions;
use crate::mesh::identity;
use crate::mesh::workload::WorkloadNaming;

/// What objects have in common.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Table<str>,
    pub(super) labels: Table<BTreeMap<String, String>>,
    pub(super) namings: Table<WorkloadNaming>,
    pub(super) identities: Table<identity::Parts>,
    pub(super) ports: Table<Vec<(String, u16)>>,
    pub(super) probe_ports: Table<BTreeSet<u16>>,
    pub(super) exclusions: Table<Exclusions>,
}

impl Names {
    /// The name as others have it already.
    pub(super) fn shared(&self, name: &str) -> Arc<str> {
        self.texts.shared(name, || name.into())
    }
}

/// What is in use, and some that was.
#[derive(Debug)]
pub(super) struct Table<T: ?Sized>(RefCell<Known<T>>);

#[derive(Debug)]
struct Known<T: ?Sized> {
    all: HashSet<Arc<T>>,
    /// At so many those that nobody uses any more are looked for.
    full: usize,
}

impl<T: ?Sized> Default for Table<T> {
    fn default() -> Self {
        Self(RefCell::new(Known {
            all: HashSet::new(),
            full: FEW,
        }))
    }
}

impl<T: Eq + Hash> Table<T> {
    /// What is said as others have it already.
    pub(super) fn once(&self, said: impl Into<Arc<T>>) -> Arc<T> {
        let said = said.into();
        self.known(&said).unwrap_or_else(|| self.learn(said))
    }
}

impl<T: ?Sized + Eq + Hash> Table<T> {
    fn shared(&self, said: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        self.known(said).unwrap_or_else(|| self.learn(make()))
    }

    fn known(&self, said: &T) -> Option<Arc<T>>
    where
        Arc<T>: Borrow<T>,
    {
        self.0.borrow().all.get(said).cloned()
    }

    fn learn(&self, new: Arc<T>) -> Arc<T> {
        let mut known = self.0.borrow_mut();
        if known.all.len() >= known.full {
            known.all.retain(|one| Arc::strong_count(one) > 1);
            known.full = (known.all.len() * 2).max(FEW);
        }
        known.all.insert(Arc::clone(&new));
        new
    }
}

const FEW: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_only_while_it_is_used() {
        let names = Names::default();
        let first = names.shared("node-a");
        assert!(Arc::ptr_eq(&first, &names.shared("node-a")));
        for number in 0..100 * FEW {
            names.shared(&format!("node-{number}"));
        }
        assert!(names.texts.0.borrow().all.len() <= FEW);
        assert!(Arc::ptr_eq(&first, &names.shared("node-a")));
    }

    #[test]
    fn what_is_equal_is_kept_once() {
        let names = Names::default();
        let labels = |app: &str| {
            names
                .labels
                .once(BTreeMap::from([("app".to_owned(), app.to_owned())]))
        };
        let first = labels("web");
        assert!(Arc::ptr_eq(&first, &labels("web")));
        assert!(!Arc::ptr_eq(&first, &labels("db")));
        assert_eq!(labels("db")["app"], "db");
    }
}
