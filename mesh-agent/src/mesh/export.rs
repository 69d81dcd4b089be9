//! For whose clients an object acts: Istio's `exportTo`.
//!
//! Place in the walk: read with the object, asked with the client's namespace. Must not know: which kinds have one.

use std::sync::Arc;

/// Namespaces whose pods see an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Export {
    /// All: `*`, or nothing written.
    #[default]
    Everybody,
    /// These, each once; none where it says `~`.
    Namespaces(Arc<[Arc<str>]>),
}

impl Export {
    /// Whether clients of `namespace` see it.
    pub fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::Everybody => true,
            Self::Namespaces(namespaces) => namespaces.iter().any(|one| **one == *namespace),
        }
    }

    /// Whether there may be a client that sees both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everybody, Self::Everybody) => true,
            (Self::Everybody, Self::Namespaces(namespaces))
            | (Self::Namespaces(namespaces), Self::Everybody) => !namespaces.is_empty(),
            (Self::Namespaces(namespaces), Self::Namespaces(_)) => {
                namespaces.iter().any(|one| other.reaches(one))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(namespaces: &[&str]) -> Export {
        Export::Namespaces(namespaces.iter().map(|one| Arc::from(*one)).collect())
    }

    #[test]
    fn two_overlap_where_a_namespace_sees_both() {
        for (one, other, expected) in [
            (Export::Everybody, Export::Everybody, true),
            (Export::Everybody, to(&["shop"]), true),
            (Export::Everybody, to(&[]), false),
            (to(&["shop", "bank"]), to(&["bank"]), true),
            (to(&["shop"]), to(&["bank"]), false),
            (to(&[]), to(&[]), false),
        ] {
            assert_eq!(one.overlaps(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.overlaps(&one), expected, "{other:?} {one:?}");
        }
    }
}
