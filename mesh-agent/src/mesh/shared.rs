//! One fact that many hold: the source that learned it, each reading, and the snapshots that are built of them.
//!
//! Place in the walk: what the large lists of facts are made of. Must not know: which facts.
//!
//! A reading of a hundred thousand facts copies as many pointers and no fact. Whoever changes one gets a copy of its own
//! where others hold it too.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A pointer to a fact, copied on write.
#[derive(PartialEq, Eq)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// The pointer, for who keeps the fact.
    pub fn arc(&self) -> &Arc<T> {
        &self.0
    }

    /// Whether both are one fact in memory, and therefore equal.
    pub fn is_same(&self, other: &Arc<T>) -> bool {
        Arc::ptr_eq(&self.0, other)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> From<T> for Shared<T> {
    fn from(fact: T) -> Self {
        Self(Arc::new(fact))
    }
}

impl<T> From<Arc<T>> for Shared<T> {
    fn from(fact: Arc<T>) -> Self {
        Self(fact)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_the_same_fact_until_it_is_changed() {
        let one = Shared::from(vec![1]);
        let mut other = one.clone();
        assert!(other.is_same(one.arc()));
        other.push(2);
        assert!(!other.is_same(one.arc()));
        assert_eq!((&**one.arc(), &**other.arc()), (&vec![1], &vec![1, 2]));
    }
}
