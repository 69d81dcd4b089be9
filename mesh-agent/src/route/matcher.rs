//! One compiled match: whether it holds for a request, and how specific it is among others.
//!
//! Place in the walk: inside [`super::RouteTable`]. Must not know: rules, backends, services.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName};

use super::further::Further;
use super::{Mismatch, RequestFacts};
use crate::mesh::route::{FieldMatch, HttpMatch, PathMatch, ValueMatch};

/// A match of which every part must hold.
#[derive(Debug)]
pub(super) struct Matcher {
    path: PathMatch,
    headers: Vec<(HeaderName, ValueMatch)>,
    query: Vec<FieldMatch>,
    method: Option<Arc<str>>,
    further: Option<Box<Further>>,
    /// It asks for a header of a name that no request can carry.
    is_impossible: bool,
}

/// Greater wins: Gateway API's order of precedence, as far as the match alone decides it. An expression comes after
/// all else that is said of a path, the longer one first.
pub(super) type Specificity = (PathKind, PathLength, HasMethod, HeaderCount, QueryCount);
type PathLength = usize;
type HasMethod = bool;
type HeaderCount = usize;
type QueryCount = usize;

/// The greater the more specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathKind {
    Everything,
    Regex,
    Beginning,
    Prefix,
    Exact,
}

impl Matcher {
    pub(super) fn compile(declared: &HttpMatch) -> Self {
        let wanted = first_of_each(&declared.headers, str::eq_ignore_ascii_case);
        let headers: Vec<_> = wanted
            .iter()
            .filter_map(|header| {
                Some((
                    HeaderName::try_from(header.name.as_ref()).ok()?,
                    header.value.clone(),
                ))
            })
            .collect();
        Self {
            path: declared.path.clone(),
            is_impossible: headers.len() != wanted.len(),
            headers,
            query: first_of_each(&declared.query, str::eq)
                .into_iter()
                .cloned()
                .collect(),
            method: declared.method.clone(),
            further: declared
                .further
                .as_ref()
                .map(|further| Box::new(Further::compile(further))),
        }
    }

    /// The first of its parts that does not hold; `None` where all do.
    pub(super) fn mismatch(&self, request: &RequestFacts<'_>) -> Option<Mismatch<'_>> {
        if !is_path(&self.path, request.path) {
            return Some(Mismatch::Path(&self.path));
        }
        if self.is_impossible {
            return Some(Mismatch::Impossible);
        }
        if let Some(method) = self.method.as_deref().filter(|method| *method != request.method) {
            return Some(Mismatch::Method(method));
        }
        let is_header = |(name, wanted): &&(HeaderName, ValueMatch)| {
            header(request.headers, name).is_some_and(|value| wanted.holds(&value))
        };
        if let Some((name, wanted)) = self.headers.iter().find(|wanted| !is_header(wanted)) {
            return Some(Mismatch::Header(name, wanted));
        }
        let is_parameter = |wanted: &&FieldMatch| {
            parameter(request.query, &wanted.name).is_some_and(|value| wanted.value.holds(value.as_bytes()))
        };
        if let Some(wanted) = self.query.iter().find(|wanted| !is_parameter(wanted)) {
            return Some(Mismatch::Query(wanted));
        }
        self.further.as_deref()?.mismatch(request)
    }

    pub(super) fn specificity(&self) -> Specificity {
        let (kind, path) = match &self.path {
            PathMatch::Exact(path) | PathMatch::AnyCase(path) => (PathKind::Exact, path.as_ref()),
            PathMatch::Beginning { text, .. } => (PathKind::Beginning, text.as_ref()),
            PathMatch::Prefix(prefix) if prefix.as_ref() == "/" => (PathKind::Everything, prefix.as_ref()),
            PathMatch::Prefix(prefix) => (PathKind::Prefix, prefix.as_ref()),
            PathMatch::Regex(pattern) => (PathKind::Regex, pattern.as_str()),
        };
        (
            kind,
            path.chars().count(),
            self.method.is_some(),
            self.headers.len(),
            self.query.len(),
        )
    }

    /// The prefix that holds, where it is one; of a delegated rule that asks for no path, its root's.
    pub(super) fn prefix(&self) -> Option<&Arc<str>> {
        let root = self.further.as_deref().and_then(Further::root);
        match (&self.path, root) {
            (PathMatch::Prefix(prefix), Some(root)) if prefix.as_ref() == "/" => root.prefix(),
            (PathMatch::Prefix(prefix) | PathMatch::Beginning { text: prefix, .. }, _) => Some(prefix),
            (PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::AnyCase(_), _) => None,
        }
    }
}

/// By what the entries that may hold for a path are found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PathKey<'m> {
    /// The whole path.
    Exact(&'m str),
    /// Its first elements, without a slash at their end.
    Prefix(&'m str),
    /// Only a trial can tell.
    Other,
}

impl Matcher {
    pub(super) fn path_key(&self) -> PathKey<'_> {
        match &self.path {
            PathMatch::Exact(path) => PathKey::Exact(path),
            PathMatch::Prefix(prefix) => PathKey::Prefix(prefix.strip_suffix('/').unwrap_or(prefix)),
            PathMatch::AnyCase(_) | PathMatch::Beginning { .. } | PathMatch::Regex(_) => PathKey::Other,
        }
    }

    /// The path at and below which it may hold, as a cookie's `Path` says it.
    pub(super) fn cookie_path(&self) -> Arc<str> {
        match &self.path {
            PathMatch::Exact(path) => cookie_path(path),
            PathMatch::Prefix(prefix) => cookie_path(prefix.trim_end_matches('/')),
            PathMatch::Regex(pattern) => cookie_path(fixed_part(pattern.as_str())),
            PathMatch::AnyCase(_) | PathMatch::Beginning { .. } => cookie_path("/"),
        }
    }
}

/// `/` for what a cookie cannot carry.
fn cookie_path(path: &str) -> Arc<str> {
    let can_be_carried = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    if path.starts_with('/') && path.bytes().all(can_be_carried) {
        path.into()
    } else {
        "/".into()
    }
}

/// The elements of a path with which whatever matches begins.
fn fixed_part(pattern: &str) -> &str {
    if pattern.contains('|') {
        return "/";
    }
    let Some((literal, _)) = pattern
        .find(|c: char| r"\.+*?()[]{}^$".contains(c))
        .and_then(|at| pattern.split_at_checked(at))
    else {
        return pattern;
    };
    // The last element may go on, and its last character may be left out.
    literal.rsplit_once('/').map_or("/", |(elements, _)| elements)
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "path {}", self.path)?;
        if let Some(method) = &self.method {
            write!(f, ", method {method}")?;
        }
        for (name, value) in &self.headers {
            write!(f, ", header {name} {value}")?;
        }
        for FieldMatch { name, value } in &self.query {
            write!(f, ", query parameter {name} {value}")?;
        }
        match &self.further {
            Some(further) => write!(f, "{further}"),
            None => Ok(()),
        }
    }
}

fn is_path(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(whole) => path == whole.as_ref(),
        PathMatch::Prefix(prefix) => has_path_prefix(path, prefix),
        PathMatch::Regex(pattern) => pattern.matches(path.as_bytes()),
        PathMatch::AnyCase(whole) => path.eq_ignore_ascii_case(whole),
        PathMatch::Beginning { text, ignores_case } => path
            .get(..text.len())
            .is_some_and(|start| start == text.as_ref() || *ignores_case && start.eq_ignore_ascii_case(text)),
    }
}

/// The first of all entries for one name.
fn first_of_each(declared: &[FieldMatch], is_same: fn(&str, &str) -> bool) -> Vec<&FieldMatch> {
    let mut first: Vec<&FieldMatch> = Vec::new();
    for field in declared {
        if !first.iter().any(|seen| is_same(&seen.name, &field.name)) {
            first.push(field);
        }
    }
    first
}

/// The value of a header; repeated field lines are one value, joined by commas (RFC 9110 section 5.2).
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let first = Cow::Borrowed(lines.next()?.as_bytes());
    Some(lines.fold(first, |joined, line| {
        let mut joined = joined.into_owned();
        joined.push(b',');
        joined.extend_from_slice(line.as_bytes());
        Cow::Owned(joined)
    }))
}

/// The first value of a query parameter, decoded.
fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, str>> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(found, _)| found == name)
        .map(|(_, value)| value)
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
    use crate::mesh::route::Pattern;
    use crate::route::Dialled;

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

    fn exact(name: &str, value: &str) -> FieldMatch {
        FieldMatch {
            name: name.into(),
            value: ValueMatch::Exact(value.into()),
        }
    }

    fn holds(declared: &HttpMatch, headers: &HeaderMap, query: Option<&str>) -> bool {
        let request = RequestFacts {
            method: "GET",
            path: "/",
            query,
            headers,
            dialled: Dialled::default(),
        };
        Matcher::compile(declared).mismatch(&request).is_none()
    }

    #[test]
    fn a_header_matches_by_its_whole_value_and_any_case_of_its_name() {
        let mut headers = HeaderMap::new();
        headers.insert("version", "two".parse().unwrap());
        headers.append("many", "a".parse().unwrap());
        headers.append("many", "b".parse().unwrap());
        headers.append("many", "c".parse().unwrap());
        let regex = |name: &str, value: &str| FieldMatch {
            name: name.into(),
            value: ValueMatch::Regex(Pattern::new(value).unwrap()),
        };
        for (wanted, expected) in [
            (exact("version", "two"), true),
            (exact("Version", "two"), true),
            (exact("version", "Two"), false),
            (exact("version", "tw"), false),
            (exact("absent", ""), false),
            (exact("many", "a,b,c"), true),
            (exact("many", "a"), false),
            (exact("not a name", "x"), false),
            (exact("version", "\u{7}"), false),
            (regex("version", "t.o"), true),
            (regex("version", "t"), false),
            (regex("many", "a,.*"), true),
            (regex("absent", ".*"), false),
        ] {
            let declared = HttpMatch {
                headers: vec![wanted.clone()],
                ..HttpMatch::default()
            };
            assert_eq!(holds(&declared, &headers, None), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_query_parameter_matches_by_its_first_decoded_value() {
        for (query, name, value, expected) in [
            (Some("a=1"), "a", "1", true),
            (Some("b=2&a=1&a=3"), "a", "1", true),
            (Some("b=2&a=1&a=3"), "a", "3", false),
            (Some("A=1"), "a", "1", false),
            (Some("a=x%20y+z"), "a", "x y z", true),
            (Some("a"), "a", "", true),
            (Some(""), "a", "", false),
            (None, "a", "", false),
        ] {
            let declared = HttpMatch {
                query: vec![exact(name, value)],
                ..HttpMatch::default()
            };
            let headers = HeaderMap::new();
            assert_eq!(
                holds(&declared, &headers, query),
                expected,
                "{query:?} {name}={value}"
            );
        }
    }

    #[test]
    fn only_the_first_entry_of_a_name_counts() {
        let declared = HttpMatch {
            headers: vec![exact("version", "one"), exact("Version", "two")],
            query: vec![exact("a", "1"), exact("a", "2"), exact("A", "3")],
            ..HttpMatch::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert("version", "one".parse().unwrap());
        assert!(holds(&declared, &headers, Some("a=1&A=3")));
        assert_eq!(
            Matcher::compile(&declared).specificity(),
            (PathKind::Everything, 1, false, 1, 2)
        );
    }
}
