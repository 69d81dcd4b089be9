//! What the route table promises: precedence against a naive oracle, groups, weights.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::route::{
    Audience, BackendTarget, FieldMatch, Filters, HttpMatch, HttpRule, PathMatch, RouteBackend, RouteKind,
    RuleAction, ValueMatch,
};
use crate::mesh::service::ServiceName;

pub(super) fn backend(name: &str, weight: u32) -> RouteBackend {
    RouteBackend {
        field: "spec".into(),
        target: BackendTarget::Service(ServiceName::new("ns", name), 80),
        weight,
        filters: Filters::default(),
    }
}

pub(super) fn rule(matches: Vec<HttpMatch>, backends: Vec<RouteBackend>) -> HttpRule {
    HttpRule {
        matches,
        action: RuleAction::Forward(backends),
        ..HttpRule::default()
    }
}

pub(super) fn route(name: &str, age: Option<u64>, rules: Vec<HttpRule>) -> HttpRoute {
    HttpRoute {
        kind: RouteKind::Http,
        namespace: "ns".into(),
        name: name.into(),
        meta: Arc::new(ObjectMeta {
            created: age.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
            ..ObjectMeta::default()
        }),
        audience: Audience::ByNamespace,
        parents: Vec::new(),
        rules,
    }
}

pub(super) fn everything() -> HttpMatch {
    HttpMatch::default()
}

pub(super) fn get<'a>(path: &'a str, headers: &'a HeaderMap) -> RequestFacts<'a> {
    RequestFacts {
        method: "GET",
        path,
        query: None,
        headers,
        dialled: Dialled::default(),
    }
}

fn choose(rule: &CompiledRule, rng: &mut dyn rand::RngCore) -> String {
    let CompiledAction::Forward(shares) = &rule.action else {
        panic!("{rule:?}");
    };
    let chosen = shares.choose(rng);
    chosen.map_or_else(|| "-".to_owned(), |backend| backend.service.name.to_string())
}

/// How often each backend is chosen in `rounds`; `-` stands for an invalid one.
fn chosen(rule: &CompiledRule, rounds: u32) -> BTreeMap<String, u32> {
    let mut rng = SmallRng::seed_from_u64(42);
    let mut counts = BTreeMap::new();
    for _ in 0..rounds {
        *counts.entry(choose(rule, &mut rng)).or_default() += 1;
    }
    counts
}

fn only_rule(backends: Vec<RouteBackend>) -> RouteTable {
    let routes = [route("r", None, vec![rule(vec![everything()], backends)])];
    RouteTable::compile(&routes, |target| {
        target
            .named()
            .is_some_and(|(service, ..)| service.name.as_ref() != "missing")
    })
}

#[test]
fn an_unmatched_request_has_no_rule() {
    let exact = HttpMatch {
        path: PathMatch::Exact("/a".into()),
        ..everything()
    };
    let routes = [route("r", None, vec![rule(vec![exact], vec![backend("b", 1)])])];
    let table = RouteTable::compile(&routes, |_| true);
    let headers = HeaderMap::new();
    assert!(table.decide(&get("/a", &headers)).is_some());
    assert!(table.decide(&get("/a/", &headers)).is_none());
}

#[test]
fn backends_share_requests_by_weight() {
    let table = only_rule(vec![backend("v1", 90), backend("v2", 10), backend("off", 0)]);
    let counts = chosen(&table.decide(&get("/", &HeaderMap::new())).unwrap().rule, 10_000);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["v1", "v2"]);
    assert!((850..1150).contains(&counts["v2"]), "{counts:?}");
}

#[test]
fn an_invalid_backend_keeps_its_share() {
    let table = only_rule(vec![backend("v1", 1), backend("missing", 1)]);
    let counts = chosen(&table.decide(&get("/", &HeaderMap::new())).unwrap().rule, 10_000);
    assert!((4700..5300).contains(&counts["-"]), "{counts:?}");
}

#[test]
fn a_rule_without_weight_is_invalid() {
    for backends in [vec![], vec![backend("v1", 0)], vec![backend("missing", 1)]] {
        let table = only_rule(backends);
        let headers = HeaderMap::new();
        let rule = table.decide(&get("/", &headers)).unwrap().rule;
        assert_eq!(chosen(&rule, 20), BTreeMap::from([("-".to_owned(), 20)]));
    }
}

#[test]
fn a_zero_timeout_is_none() {
    for (declared, compiled) in [
        (None, None),
        (Some(Duration::ZERO), None),
        (Some(Duration::from_millis(5)), Some(Duration::from_millis(5))),
    ] {
        let rules = vec![HttpRule {
            request_timeout: declared,
            ..rule(vec![everything()], vec![])
        }];
        let table = RouteTable::compile(&[route("r", None, rules)], |_| true);
        assert_eq!(
            table
                .decide(&get("/", &HeaderMap::new()))
                .unwrap()
                .rule
                .request_timeout,
            compiled
        );
    }
}

proptest! {
    #[test]
    fn every_backend_gets_its_share(weights in prop::collection::vec(0..50_u32, 1..6)) {
        let backends = weights.iter().enumerate().map(|(i, &w)| backend(&format!("b{i}"), w)).collect();
        let table = only_rule(backends);
        let counts = chosen(&table.decide(&get("/", &HeaderMap::new())).unwrap().rule, 4000);
        let total: u32 = weights.iter().sum();
        for (i, &weight) in weights.iter().enumerate() {
            let seen = counts.get(&format!("b{i}")).copied().unwrap_or(0);
            let expected = if total == 0 { 0.0 } else { 4000.0 * f64::from(weight) / f64::from(total) };
            // Five standard deviations of a binomial share are at most 158.
            prop_assert!((f64::from(seen) - expected).abs() < 160.0, "b{i}: {seen} of {expected}");
            prop_assert!(weight > 0 || seen == 0);
        }
    }

    #[test]
    fn precedence_is_that_of_a_naive_oracle(routes in arbitrary_routes(), request in arbitrary_request()) {
        let table = RouteTable::compile(&routes, |_| true);
        let (method, path, headers) = request;
        let (path, query) = path.split_once('?').map_or((path.as_str(), None), |(path, query)| (path, Some(query)));
        let facts = RequestFacts { method: &method, path, query, headers: &headers, dialled: Dialled::default() };
        let decided = table.decide(&facts).map(|decided| choose(&decided.rule, &mut rand::rng()));
        prop_assert_eq!(decided, oracle(&routes, &facts));
    }
}

/// Gateway API's text, criterion by criterion: keep the best of all that hold, then go on with the next.
fn oracle(routes: &[HttpRoute], request: &RequestFacts<'_>) -> Option<String> {
    let mut candidates: Vec<OracleCandidate<'_>> = Vec::new();
    for route in routes {
        for (index, rule) in route.rules.iter().enumerate() {
            for m in &rule.matches {
                if oracle_holds(m, request) {
                    candidates.push((route, index, rule, m));
                }
            }
        }
    }
    let path_length = |m: &HttpMatch| match &m.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.len(),
        PathMatch::Regex(_) | PathMatch::AnyCase(_) | PathMatch::Beginning { .. } => unreachable!(),
    };
    keep(&mut candidates, |(.., m)| matches!(m.path, PathMatch::Exact(_)));
    keep(&mut candidates, |(.., m)| path_length(m));
    keep(&mut candidates, |(.., m)| m.method.is_some());
    keep(&mut candidates, |(.., m)| m.headers.len());
    keep(&mut candidates, |(.., m)| m.query.len());
    let age = |route: &HttpRoute| {
        route.meta.created.map_or(u64::MAX, |at| {
            at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
        })
    };
    keep(&mut candidates, |(route, ..)| Reverse(age(route)));
    keep(&mut candidates, |(route, ..)| {
        Reverse(format!("{}/{}", route.namespace, route.name))
    });
    keep(&mut candidates, |(_, index, ..)| Reverse(*index));
    candidates
        .first()
        .map(|(_, _, rule, _)| match &rule.backends()[0].target {
            BackendTarget::Service(service, _) => service.name.to_string(),
            BackendTarget::Subset(..) | BackendTarget::Invalid => "-".to_owned(),
        })
}

type OracleCandidate<'a> = (&'a HttpRoute, usize, &'a HttpRule, &'a HttpMatch);

fn keep<'a, K: Ord>(candidates: &mut Vec<OracleCandidate<'a>>, key: impl Fn(&OracleCandidate<'a>) -> K) {
    if let Some(best) = candidates.iter().map(&key).max() {
        candidates.retain(|candidate| key(candidate) == best);
    }
}

fn oracle_holds(m: &HttpMatch, request: &RequestFacts<'_>) -> bool {
    let elements = |path: &str| {
        path.split('/')
            .filter(|e| !e.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let path = match &m.path {
        PathMatch::Exact(path) => request.path == &**path,
        PathMatch::Prefix(prefix) => elements(request.path).starts_with(&elements(prefix)),
        PathMatch::Regex(_) | PathMatch::AnyCase(_) | PathMatch::Beginning { .. } => unreachable!(),
    };
    path && m.method.as_ref().is_none_or(|method| &**method == request.method)
        && m.headers.iter().all(|h| {
            request
                .headers
                .get(&*h.name)
                .is_some_and(|v| h.value.holds(v.as_bytes()))
        })
        && m.query.iter().all(|p| {
            request
                .query
                .is_some_and(|query| query.contains(&format!("{}=1", p.name)))
        })
}

fn arbitrary_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]", 0..4).prop_map(|elements| format!("/{}", elements.join("/")))
}

fn is_one(name: &str) -> FieldMatch {
    FieldMatch {
        name: name.into(),
        value: ValueMatch::Exact("1".into()),
    }
}

fn arbitrary_match() -> impl Strategy<Value = HttpMatch> {
    (
        any::<bool>(),
        arbitrary_path(),
        prop::option::of("GET|PUT"),
        prop::sample::subsequence(vec!["x", "y"], 0..=2),
        prop::sample::subsequence(vec!["p", "q"], 0..=2),
    )
        .prop_map(|(is_exact, path, method, headers, query)| HttpMatch {
            path: if is_exact {
                PathMatch::Exact(path.into())
            } else {
                PathMatch::Prefix(path.into())
            },
            method: method.map(Into::into),
            headers: headers.into_iter().map(is_one).collect(),
            query: query.into_iter().map(is_one).collect(),
            further: None,
        })
}

/// Each rule of each route has a backend of its own name, so that the winner can be told.
fn arbitrary_routes() -> impl Strategy<Value = Vec<HttpRoute>> {
    let rules = prop::collection::vec(prop::collection::vec(arbitrary_match(), 1..4), 1..4);
    prop::collection::vec((prop::option::of(0..3_u64), rules), 1..5).prop_map(|routes| {
        let named = |(r, (age, rules)): (usize, (Option<u64>, Vec<Vec<HttpMatch>>))| {
            let rules = rules.into_iter().enumerate();
            let rules = rules
                .map(|(i, m)| rule(m, vec![backend(&format!("r{r}-{i}"), 1)]))
                .collect();
            route(&format!("r{r}"), age, rules)
        };
        let mut routes: Vec<_> = routes.into_iter().enumerate().map(named).collect();
        routes.reverse();
        routes
    })
}

fn arbitrary_request() -> impl Strategy<Value = (String, String, HeaderMap)> {
    (
        "GET|PUT|POST",
        arbitrary_path(),
        prop::option::of("[pq]=1(&[pq]=1)?"),
        prop::sample::subsequence(vec!["x", "y"], 0..=2),
    )
        .prop_map(|(method, path, query, names)| {
            let path = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
            let headers = names
                .into_iter()
                .map(|name| {
                    (
                        http::HeaderName::from_static(name),
                        http::HeaderValue::from_static("1"),
                    )
                })
                .collect();
            (method, path, headers)
        })
}
