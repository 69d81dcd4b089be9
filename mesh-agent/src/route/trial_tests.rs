//! What a match says of why it does not hold, and what a rule says of its shares.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use super::RouteTable;
use super::tests::{backend, everything, get, route, rule};
use crate::mesh::route::{FieldMatch, FurtherMatch, HttpMatch, PathMatch, ValueMatch};

/// Matches that do not hold: the part, the match, and why.
fn unmet() -> Vec<(&'static str, HttpMatch, &'static str)> {
    let exactly = |name: &str| FieldMatch {
        name: name.into(),
        value: ValueMatch::Exact("1".into()),
    };
    let further = |further: FurtherMatch| HttpMatch {
        further: Some(Arc::new(further)),
        ..everything()
    };
    vec![
        (
            "path",
            HttpMatch {
                path: PathMatch::Prefix("/a".into()),
                ..everything()
            },
            "the path is not /a or below",
        ),
        (
            "method",
            HttpMatch {
                method: Some("PUT".into()),
                ..everything()
            },
            "the method is not PUT",
        ),
        (
            "header",
            HttpMatch {
                headers: vec![exactly("x")],
                ..everything()
            },
            "header x is not \"1\"",
        ),
        (
            "query",
            HttpMatch {
                query: vec![exactly("p")],
                ..everything()
            },
            "query parameter p is not \"1\"",
        ),
        (
            "port",
            further(FurtherMatch {
                port: Some(81),
                ..FurtherMatch::default()
            }),
            "the port is not 81",
        ),
        (
            "source_labels",
            further(FurtherMatch {
                source_labels: vec![("app".to_owned(), "pay".to_owned())],
                ..FurtherMatch::default()
            }),
            "the client's pod has no label app=pay",
        ),
        (
            "header",
            further(FurtherMatch {
                without_headers: vec![FieldMatch {
                    name: "y".into(),
                    value: ValueMatch::Present,
                }],
                ..FurtherMatch::default()
            }),
            "header y is present, and must not be",
        ),
        (
            "path",
            further(FurtherMatch {
                root: Some(HttpMatch {
                    path: PathMatch::Exact("/r".into()),
                    ..everything()
                }),
                ..FurtherMatch::default()
            }),
            "the path is not exactly /r",
        ),
    ]
}

#[test]
fn each_match_says_which_part_does_not_hold() {
    let asked = |part: &str, m: HttpMatch| route(part, Some(1), vec![rule(vec![m], vec![])]);
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let mut headers = HeaderMap::new();
    headers.insert("y", "2".parse().unwrap());
    for (part, declared, why) in unmet() {
        let compiled = RouteTable::compile(&[asked(part, declared.clone())], |_| true);
        let mut request = get("/b", &headers);
        request.query = Some("p=2");
        request.dialled.labels = Some(&labels);
        request.dialled.port = 80;
        assert!(compiled.decide(&request).is_none(), "{declared:?}");
        let trial = compiled.trials(&request).next().unwrap();
        let mismatch = trial.mismatch.unwrap();
        assert_eq!((mismatch.part(), mismatch.to_string().as_str()), (part, why));
    }
}

#[test]
fn shares_are_told_with_their_weights() {
    let backends = vec![backend("a", 9), backend("none", 0), backend("b", 1)];
    let routes = [route("r", None, vec![rule(vec![everything()], backends)])];
    let table = RouteTable::compile(&routes, |target| {
        target
            .named()
            .is_some_and(|(service, ..)| service.name.as_ref() != "b")
    });
    let decided = table.decide(&get("/", &HeaderMap::new())).unwrap();
    let each = decided.rule.backends().each();
    let told: Vec<_> = each
        .map(|(weight, backend)| (weight, backend.map(|backend| backend.service.name.to_string())))
        .collect();
    assert_eq!(told, [(9, Some("a".to_owned())), (1, None)]);
}
