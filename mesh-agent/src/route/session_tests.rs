//! Which backends a session may name, and where its cookie is sent.

use std::sync::Arc;

use http::HeaderMap;

use super::tests::{backend, get, route, rule};
use super::*;
use crate::mesh::route::{
    HttpMatch, HttpRule, PathMatch, Pattern, RouteBackend, SessionCarrier, SessionPersistence,
};

fn keeping(path: PathMatch, backends: Vec<RouteBackend>, name: Option<&str>) -> HttpRule {
    let of_path = HttpMatch {
        path,
        ..HttpMatch::default()
    };
    HttpRule {
        name: name.map(Into::into),
        session: Some(SessionPersistence {
            carrier: SessionCarrier::Cookie {
                name: None,
                is_permanent: false,
            },
            lifetime: None,
        }),
        ..rule(vec![of_path], backends)
    }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn decided(rules: Vec<HttpRule>, path: &str) -> Decided {
    let table = RouteTable::compile([&route("r", None, rules)], |target| {
        target
            .named()
            .is_some_and(|(service, ..)| service.name.as_ref() != "gone")
    });
    table.decide(&get(path, &HeaderMap::new())).unwrap()
}

/// What tokens of the rule for `path` call a backend, if it has sessions there.
fn name_of(rules: &[HttpRule], path: &str, service: &str) -> Option<u64> {
    let decided = decided(rules.to_vec(), path);
    let sessions = decided.rule.session.as_ref()?;
    sessions.name_of(&crate::mesh::service::ServiceName::new("ns", service), 80, None)
}

#[test]
fn a_session_may_name_each_backend_that_exists_whatever_its_weight() {
    let backends = || vec![backend("a", 1), backend("b", 0), backend("gone", 1)];
    let rules = [keeping(prefix("/"), backends(), None)];
    let rule = decided(rules.to_vec(), "/").rule;
    let sessions = rule.session.as_ref().unwrap();
    for (service, may_be_named) in [("a", true), ("b", true), ("gone", false), ("other", false)] {
        let name = name_of(&rules, "/", service);
        assert_eq!(name.is_some(), may_be_named, "{service}");
        let found = name.and_then(|name| sessions.backend(name));
        let found = found.map(|backend| backend.service.name.as_ref());
        assert_eq!(found, may_be_named.then_some(service));
    }
    assert_eq!(sessions.backend(0), None);
}

#[test]
fn rules_share_no_sessions_and_a_named_one_keeps_its_own_when_it_moves() {
    let of = |path, name| keeping(prefix(path), vec![backend("a", 1)], name);
    let rules = [
        of("/a", None),
        of("/b", None),
        of("/c", Some("c")),
        of("/d", Some("0")),
    ];
    let mut names: Vec<_> = ["/a", "/b", "/c", "/d"]
        .iter()
        .map(|path| name_of(&rules, path, "a").unwrap())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 4);
    let moved = [of("/c", Some("c"))];
    assert_eq!(name_of(&moved, "/c", "a"), name_of(&rules, "/c", "a"));

    let carrier = |path| {
        let rule = decided(rules.to_vec(), path).rule;
        rule.session.as_ref().unwrap().carrier.clone()
    };
    assert_ne!(carrier("/a"), carrier("/b"), "each has a cookie of its own");
}

#[test]
fn a_cookie_is_for_the_paths_on_which_the_match_may_hold() {
    let regex = |written| PathMatch::Regex(Pattern::new(written).unwrap());
    for (path, asked, expected) in [
        (prefix("/"), "/x", "/"),
        (prefix("/shop/"), "/shop/x", "/shop"),
        (PathMatch::Exact("/a/b".into()), "/a/b", "/a/b"),
        (PathMatch::Exact("/a;b".into()), "/a;b", "/"),
        (regex("/p1/p2/.*/p3"), "/p1/p2/foo/p3", "/p1/p2"),
        (regex("/p1/fo.*"), "/p1/foo", "/p1"),
        (regex("/items/[0-9]+"), "/items/42", "/items"),
        (regex("/a/b?"), "/a/", "/a"),
        (regex("/a|/b"), "/b", "/"),
        (regex("(?i)/a/b"), "/A/B", "/"),
        (regex(".*"), "/a", "/"),
        (regex("/exact/one"), "/exact/one", "/exact/one"),
    ] {
        let rules = vec![keeping(path.clone(), vec![backend("a", 1)], None)];
        let found = decided(rules, asked).cookie_path;
        assert_eq!(found.as_deref(), Some(expected), "{path:?}");
    }
    let without = vec![rule(vec![HttpMatch::default()], vec![backend("a", 1)])];
    assert_eq!(decided(without, "/").cookie_path, None::<Arc<str>>);
}
