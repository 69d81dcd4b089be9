//! Names that many objects say, each kept once.
//!
//! Place in the walk: beside the store. Must not know: what is named.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

/// Names that are in use, and some that were.
#[derive(Debug, Default)]
pub(super) struct Names(RefCell<Known>);

#[derive(Debug, Default)]
struct Known {
    names: HashSet<Arc<str>>,
    /// At so many those that nobody uses any more are looked for.
    full: usize,
}

impl Names {
    /// The name as others have it already.
    pub(super) fn shared(&self, name: &str) -> Arc<str> {
        let mut known = self.0.borrow_mut();
        if let Some(name) = known.names.get(name) {
            return Arc::clone(name);
        }
        if known.names.len() >= known.full {
            known.names.retain(|name| Arc::strong_count(name) > 1);
            known.full = (known.names.len() * 2).max(FEW);
        }
        let name: Arc<str> = name.into();
        known.names.insert(Arc::clone(&name));
        name
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
        assert!(names.0.borrow().names.len() <= FEW);
        assert!(Arc::ptr_eq(&first, &names.shared("node-a")));
    }
}
