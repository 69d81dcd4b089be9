//! One compiled match: whether it holds for a request, and how specific it is among others.
//!
//! Place in the walk: inside [`super::RouteTable`]. Must not know: rules, backends, services.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::RequestFacts;
use crate::mesh::route::{HeaderMatch, HttpMatch, PathMatch};

/// A match of which every part must hold.
#[derive(Debug)]
pub(super) struct Matcher {
    path: PathMatch,
    headers: Vec<CompiledHeader>,
    method: Option<Arc<str>>,
}

/// Greater wins: Gateway API's order of precedence, as far as the match alone decides it.
pub(super) type Specificity = (IsExact, PathLength, HasMethod, HeaderCount);
type IsExact = bool;
type PathLength = usize;
type HasMethod = bool;
type HeaderCount = usize;

/// A header that must have a value; a name or value that no request can carry never holds.
#[derive(Debug)]
enum CompiledHeader {
    Equals(HeaderName, HeaderValue),
    Never,
}

impl Matcher {
    pub(super) fn compile(declared: &HttpMatch) -> Self {
        let mut first_of_each: Vec<&HeaderMatch> = Vec::new();
        for header in &declared.headers {
            if !first_of_each
                .iter()
                .any(|seen| seen.name.eq_ignore_ascii_case(&header.name))
            {
                first_of_each.push(header);
            }
        }
        Self {
            path: match &declared.path {
                PathMatch::Exact(path) => PathMatch::Exact(Arc::clone(path)),
                PathMatch::Prefix(prefix) => PathMatch::Prefix(Arc::clone(prefix)),
            },
            headers: first_of_each.into_iter().map(CompiledHeader::compile).collect(),
            method: declared.method.clone(),
        }
    }

    pub(super) fn holds(&self, request: &RequestFacts<'_>) -> bool {
        let is_path_right = match &self.path {
            PathMatch::Exact(path) => request.path == path.as_ref(),
            PathMatch::Prefix(prefix) => has_path_prefix(request.path, prefix),
        };
        is_path_right
            && self
                .method
                .as_deref()
                .is_none_or(|method| method == request.method)
            && self.headers.iter().all(|header| header.holds(request.headers))
    }

    pub(super) fn specificity(&self) -> Specificity {
        let (is_exact, path) = match &self.path {
            PathMatch::Exact(path) => (true, path),
            PathMatch::Prefix(prefix) => (false, prefix),
        };
        (
            is_exact,
            path.chars().count(),
            self.method.is_some(),
            self.headers.len(),
        )
    }
}

impl CompiledHeader {
    fn compile(declared: &HeaderMatch) -> Self {
        match (
            HeaderName::try_from(declared.name.as_ref()),
            HeaderValue::try_from(declared.value.as_ref()),
        ) {
            (Ok(name), Ok(value)) => Self::Equals(name, value),
            (Err(_), _) | (_, Err(_)) => Self::Never,
        }
    }

    fn holds(&self, headers: &HeaderMap) -> bool {
        let Self::Equals(name, wanted) = self else {
            return false;
        };
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => false,
            (Some(only), None) => only == wanted,
            // RFC 9110 5.2: repeated field lines are one value, joined by commas.
            (Some(first), Some(second)) => {
                let mut joined = [first.as_bytes(), second.as_bytes()].join(&b","[..]);
                for value in values {
                    joined.push(b',');
                    joined.extend_from_slice(value.as_bytes());
                }
                joined == wanted.as_bytes()
            }
        }
    }
}

/// Whether `prefix` is made of the first elements of `path`; a trailing slash of the prefix counts for nothing.
fn has_path_prefix(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix)
        .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_matches_whole_path_elements() {
        // The table of HTTPPathMatch in Gateway API's reference, and its edges.
        for (prefix, path, holds) in [
            ("/", "/", true),
            ("/", "/any/thing", true),
            ("/", "*", true),
            ("/abc", "/abc", true),
            ("/abc", "/abc/", true),
            ("/abc", "/abc/def", true),
            ("/abc", "/abcd", false),
            ("/abc", "/ab", false),
            ("/abc", "/", false),
            ("/abc", "/ABC", false),
            ("/abc/", "/abc", true),
            ("/abc/", "/abc/def", true),
            ("/abc/", "/abcd", false),
            ("/abc/def", "/abc", false),
            ("/abc", "/x/abc", false),
            ("/abc", "/abc%2Fdef", false),
        ] {
            assert_eq!(has_path_prefix(path, prefix), holds, "{prefix} against {path}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_matches_exactly_when_its_elements_lead_the_paths(
            prefix in prop::collection::vec("[ab]{1,2}", 0..4),
            path in prop::collection::vec("[ab]{1,2}", 0..4),
            has_slash: bool,
        ) {
            let slash = if has_slash && !prefix.is_empty() { "/" } else { "" };
            let written = format!("/{}{slash}", prefix.join("/"));
            let requested = format!("/{}", path.join("/"));
            prop_assert_eq!(has_path_prefix(&requested, &written), path.starts_with(&prefix));
        }
    }

    fn header_match(name: &str, value: &str) -> CompiledHeader {
        CompiledHeader::compile(&HeaderMatch {
            name: name.into(),
            value: value.into(),
        })
    }

    #[test]
    fn a_header_matches_by_its_whole_value_and_any_case_of_its_name() {
        let mut headers = HeaderMap::new();
        headers.insert("version", "two".parse().unwrap());
        headers.append("many", "a".parse().unwrap());
        headers.append("many", "b".parse().unwrap());
        headers.append("many", "c".parse().unwrap());
        for (name, value, holds) in [
            ("version", "two", true),
            ("Version", "two", true),
            ("version", "Two", false),
            ("version", "tw", false),
            ("absent", "", false),
            ("many", "a,b,c", true),
            ("many", "a", false),
            ("not a name", "x", false),
            ("version", "\u{7}", false),
        ] {
            assert_eq!(
                header_match(name, value).holds(&headers),
                holds,
                "{name}: {value:?}"
            );
        }
    }

    #[test]
    fn only_the_first_entry_of_a_header_name_counts() {
        let declared = HttpMatch {
            path: PathMatch::Prefix("/".into()),
            headers: vec![
                HeaderMatch {
                    name: "version".into(),
                    value: "one".into(),
                },
                HeaderMatch {
                    name: "Version".into(),
                    value: "two".into(),
                },
            ],
            method: None,
        };
        let matcher = Matcher::compile(&declared);
        let mut headers = HeaderMap::new();
        headers.insert("version", "one".parse().unwrap());
        assert!(matcher.holds(&RequestFacts {
            method: "GET",
            path: "/",
            headers: &headers
        }));
        assert_eq!(matcher.specificity(), (false, 1, false, 1));
    }
}
