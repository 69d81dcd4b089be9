//! Finds the entries of a large route table whose path may hold, without a look at the others.
//!
//! Place in the walk: inside [`super::RouteTable`], where it has many entries. Must not know: anything of a match but its path.
//!
//! A Service may have a hundred thousand routes, and each request would try them one by one. Whole paths and prefixes are
//! found by hash; expressions and beginnings of text have nothing to be found by, and are candidates for every path.

use std::collections::HashMap;

use super::matcher::{Matcher, PathKey};

/// Positions of entries by what they ask of a path.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Vec<usize>>,
    /// Prefixes without a slash at their end.
    prefixes: HashMap<Box<str>, Vec<usize>>,
    /// How many elements the longest prefix has: no more of a path are looked up, however many it has.
    longest: usize,
    others: Vec<usize>,
}

impl Index {
    /// Over the entries of a table, in its order; `None` where trying them all is as good.
    pub(super) fn of<'m>(matchers: impl ExactSizeIterator<Item = &'m Matcher>) -> Option<Self> {
        if matchers.len() <= FEW {
            return None;
        }
        let mut index = Self::default();
        for (position, matcher) in matchers.enumerate() {
            let positions = match matcher.path_key() {
                PathKey::Exact(path) => index.exact.entry(path.into()).or_default(),
                PathKey::Prefix(prefix) => {
                    index.longest = index.longest.max(prefix.matches('/').count());
                    index.prefixes.entry(prefix.into()).or_default()
                }
                PathKey::Other => &mut index.others,
            };
            positions.push(position);
        }
        Some(index)
    }

    /// The positions of all entries whose path holds for `path`, and of those of which only a trial can tell, in order.
    pub(super) fn candidates<'i>(&'i self, path: &str) -> Candidates<'i> {
        let whole = self.exact.get(path).map(Vec::as_slice);
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        // The slash before the first element ends the empty prefix, which everything has.
        let ends = ends.filter(|end| *end > 0).take(self.longest);
        let prefixes = [0].into_iter().chain(ends).filter_map(|end| {
            let prefix = path.get(..end)?;
            self.prefixes.get(prefix).map(Vec::as_slice)
        });
        let lists = whole.into_iter().chain(prefixes).chain([self.others.as_slice()]);
        Candidates(lists.filter(|list| !list.is_empty()).collect())
    }
}

/// Rising positions out of several rising lists.
#[derive(Debug)]
pub(super) struct Candidates<'i>(Vec<&'i [usize]>);

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let next = self
            .0
            .iter_mut()
            .min_by_key(|list| list.first().copied().unwrap_or(usize::MAX))?;
        let (first, rest) = next.split_first()?;
        *next = rest;
        Some(*first)
    }
}

/// So many entries are tried one by one as fast as they are looked up.
const FEW: usize = 16;

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::route::{HttpMatch, PathMatch, Pattern};
    use crate::route::{Dialled, RequestFacts};

    fn matcher(path: PathMatch) -> Matcher {
        Matcher::compile(&HttpMatch {
            path,
            ..HttpMatch::default()
        })
    }

    fn holds(matcher: &Matcher, path: &str) -> bool {
        let facts = RequestFacts {
            method: "GET",
            path,
            query: None,
            headers: &HeaderMap::new(),
            dialled: Dialled::default(),
        };
        matcher.mismatch(&facts).is_none()
    }

    /// Few characters, so that paths meet.
    fn text() -> impl Strategy<Value = String> {
        "[/aA]{0,6}".prop_map(|rest| format!("/{rest}"))
    }

    fn path_match() -> impl Strategy<Value = PathMatch> {
        prop_oneof![
            4 => text().prop_map(|path| PathMatch::Exact(path.into())),
            4 => text().prop_map(|path| PathMatch::Prefix(path.into())),
            1 => text().prop_map(|path| PathMatch::AnyCase(path.into())),
            1 => (text(), any::<bool>()).prop_map(|(path, ignores_case)| PathMatch::Beginning { text: path.into(), ignores_case }),
            1 => text().prop_map(|path| PathMatch::Regex(Pattern::new(&format!("{path}.*")).unwrap())),
        ]
    }

    proptest! {
        #[test]
        fn whatever_holds_is_a_candidate_and_they_come_in_order(
            paths in prop::collection::vec(path_match(), FEW + 1..60),
            path in prop_oneof![9 => text(), 1 => Just("*".to_owned())],
        ) {
            let matchers: Vec<_> = paths.into_iter().map(matcher).collect();
            let index = Index::of(matchers.iter()).unwrap();
            let candidates: Vec<_> = index.candidates(&path).collect();
            prop_assert!(candidates.is_sorted_by(|a, b| a < b), "{:?}", candidates);
            for (position, matcher) in matchers.iter().enumerate() {
                let is_told = candidates.contains(&position);
                prop_assert!(is_told || !holds(matcher, &path), "{} of {}", position, path);
                // What is found by hash needs no other trial of its path.
                let is_sure = !matches!(matcher.path_key(), PathKey::Other);
                prop_assert!(!is_told || !is_sure || holds(matcher, &path), "{} of {}", position, path);
            }
        }
    }

    #[test]
    fn of_a_hundred_thousand_routes_of_one_service_a_request_tries_two() {
        let exact = (0..50_000).map(|number| PathMatch::Exact(format!("/{number}").into()));
        let prefixes = (0..50_000).map(|number| PathMatch::Prefix(format!("/{number}/").into()));
        let matchers: Vec<_> = exact.chain(prefixes).map(matcher).collect();
        let index = Index::of(matchers.iter()).unwrap();
        for number in [0, 4_242, 49_999] {
            let found: Vec<_> = index.candidates(&format!("/{number}")).collect();
            assert_eq!(found, [number, 50_000 + number]);
        }
        assert_eq!(index.candidates("/50000").count(), 0);
        // A path of slashes alone has few elements that are looked up.
        assert_eq!(index.candidates(&"/".repeat(32 * 1024)).count(), 0);
    }
}
