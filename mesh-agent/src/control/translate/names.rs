//! Names and labels that many objects say, each kept once.
//!
//! Place in the walk: beside the store. Must not know: what is named.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::mesh::shared::Shared;

/// What objects have in common.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Table<str>,
    labels: Table<BTreeMap<String, String>>,
}

impl Names {
    /// The name as others have it already.
    pub(super) fn shared(&self, name: &str) -> Arc<str> {
        self.texts.shared(name, || name.into())
    }

    /// The labels as others have them already: those of the pods of one template.
    pub(super) fn labels(&self, labels: BTreeMap<String, String>) -> Shared<BTreeMap<String, String>> {
        let known = self.labels.known(&labels);
        known.unwrap_or_else(|| self.labels.learn(labels.into())).into()
    }
}

/// What is in use, and some that was.
#[derive(Debug)]
struct Table<T: ?Sized>(RefCell<Known<T>>);

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
    fn equal_labels_are_kept_once() {
        let names = Names::default();
        let labels = |app: &str| names.labels([("app".to_owned(), app.to_owned())].into());
        let first = labels("web");
        assert!(first.is_same(labels("web").arc()));
        assert!(!first.is_same(labels("db").arc()));
        assert_eq!(labels("db")["app"], "db");
    }
}
