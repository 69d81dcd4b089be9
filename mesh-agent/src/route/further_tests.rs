//! What only VirtualServices ask, against requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use super::matcher::Matcher;
use super::{Dialled, RequestFacts};
use crate::mesh::route::{FieldMatch, FurtherMatch, HttpMatch, PathMatch, Pattern, ValueMatch};

fn holds(declared: &HttpMatch, path: &str) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert("version", "two".parse().unwrap());
    let labels = BTreeMap::from([("app".to_owned(), "cart".to_owned())]);
    let request = RequestFacts {
        method: "GET",
        path,
        query: None,
        headers: &headers,
        dialled: Dialled {
            authority: "web.shop:80",
            port: 80,
            namespace: "shop",
            labels: Some(&labels),
        },
    };
    Matcher::compile(declared).mismatch(&request).is_none()
}

fn asking(further: FurtherMatch) -> HttpMatch {
    HttpMatch {
        further: Some(Arc::new(further)),
        ..HttpMatch::default()
    }
}

fn of_path(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path,
        ..HttpMatch::default()
    }
}

fn beginning(text: &str, ignores_case: bool) -> PathMatch {
    PathMatch::Beginning {
        text: text.into(),
        ignores_case,
    }
}

#[test]
fn a_path_is_compared_as_text() {
    for (wanted, path, expected) in [
        (beginning("/abc", false), "/abc", true),
        (beginning("/abc", false), "/abcd", true),
        (beginning("/abc", false), "/ab", false),
        (beginning("/abc", false), "/ABC", false),
        (beginning("/abc", true), "/ABCd", true),
        (beginning("", false), "/any", true),
        (PathMatch::AnyCase("/abc".into()), "/aBc", true),
        (PathMatch::AnyCase("/abc".into()), "/abcd", false),
    ] {
        assert_eq!(
            holds(&of_path(wanted.clone()), path),
            expected,
            "{wanted:?} {path}"
        );
    }
}

#[test]
fn every_further_condition_must_hold() {
    let without = |name: &str, value: ValueMatch| FurtherMatch {
        without_headers: vec![FieldMatch {
            name: name.into(),
            value,
        }],
        ..FurtherMatch::default()
    };
    let label = |name: &str, value: &str| FurtherMatch {
        source_labels: vec![(name.to_owned(), value.to_owned())],
        ..FurtherMatch::default()
    };
    let none = FurtherMatch::default;
    let method = |method: &str| FurtherMatch {
        method: Some(ValueMatch::Prefix(method.into())),
        ..none()
    };
    let authority = |authority: &str| FurtherMatch {
        authority: Some(ValueMatch::Exact(authority.into())),
        ..none()
    };
    let port = |port: u16| FurtherMatch {
        port: Some(port),
        ..none()
    };
    let namespace = |namespace: &str| FurtherMatch {
        source_namespace: Some(namespace.into()),
        ..none()
    };
    for (further, expected) in [
        (none(), true),
        (method("G"), true),
        (method("P"), false),
        (authority("web.shop:80"), true),
        (authority("web.shop"), false),
        (port(80), true),
        (port(81), false),
        (namespace("shop"), true),
        (namespace("bank"), false),
        (label("app", "cart"), true),
        (label("app", "web"), false),
        (label("tier", "cart"), false),
        (without("version", ValueMatch::Exact("one".into())), true),
        (
            without("version", ValueMatch::Regex(Pattern::new("t.*").unwrap())),
            false,
        ),
        (without("version", ValueMatch::Present), false),
        (without("absent", ValueMatch::Present), true),
    ] {
        assert_eq!(holds(&asking(further.clone()), "/"), expected, "{further:?}");
    }
}

#[test]
fn a_delegate_holds_only_where_its_root_does() {
    let rooted = |own: PathMatch| HttpMatch {
        path: own,
        ..asking(FurtherMatch {
            root: Some(of_path(beginning("/a/", false))),
            ..FurtherMatch::default()
        })
    };
    let everything = rooted(PathMatch::Prefix("/".into()));
    assert!(holds(&everything, "/a/b"));
    assert!(!holds(&everything, "/b"));
    assert!(!holds(&rooted(PathMatch::Exact("/b".into())), "/b"));
    let prefix = |declared: &HttpMatch| Matcher::compile(declared).prefix().cloned();
    assert_eq!(
        prefix(&everything).as_deref(),
        Some("/a/"),
        "a rewrite replaces what the root matched"
    );
    assert_eq!(prefix(&rooted(beginning("/a/b", false))).as_deref(), Some("/a/b"));
}
