//! What rules about tokens match: on a request with one, on a request without, and on what is no HTTP.

use serde_json::json;

use super::*;
use crate::mesh::policy::authorization::TextAttribute::{Audience, Claim, Presenter, RequestPrincipal};
use crate::policy::authentication::Claims;
use crate::policy::authentication::testing::claims;

fn claim(path: &[&str]) -> TextAttribute {
    Claim(path.iter().map(|name| Arc::from(*name)).collect())
}

fn token() -> Claims {
    claims(&json!({
        "iss": "https://a", "sub": "alice", "aud": ["shop", "bank"], "azp": "app",
        "groups": ["staff", "admin"], "scope": "read write", "n": 7, "deep": {"er": "x"},
    }))
}

/// Condition, whether it holds with the token, and without one.
fn table() -> Vec<(&'static str, Condition, bool, bool)> {
    vec![
        (
            "principal",
            is(RequestPrincipal, exact("https://a/alice")),
            true,
            false,
        ),
        (
            "another",
            is(RequestPrincipal, exact("https://a/bob")),
            false,
            false,
        ),
        (
            "of the issuer",
            is(RequestPrincipal, TextMatch::Prefix("https://a/".into())),
            true,
            false,
        ),
        ("any", is(RequestPrincipal, TextMatch::Present), true, false),
        ("none", is_not(RequestPrincipal, TextMatch::Present), false, true),
        (
            "not another",
            is_not(RequestPrincipal, exact("https://a/bob")),
            true,
            true,
        ),
        ("second audience", is(Audience, exact("bank")), true, false),
        ("not that audience", is_not(Audience, exact("bank")), false, true),
        ("another audience", is(Audience, exact("b")), false, false),
        ("presenter", is(Presenter, exact("app")), true, false),
        ("in a list", is(claim(&["groups"]), exact("admin")), true, false),
        (
            "not in a list",
            is_not(claim(&["groups"]), exact("admin")),
            false,
            true,
        ),
        ("a word", is(claim(&["scope"]), exact("write")), true, false),
        (
            "all words",
            is(claim(&["scope"]), exact("read write")),
            false,
            false,
        ),
        ("nested", is(claim(&["deep", "er"]), exact("x")), true, false),
        ("no text", is(claim(&["n"]), exact("7")), false, false),
        ("no claim", is(claim(&["none"]), TextMatch::Present), false, false),
    ]
}

#[test]
fn rules_about_tokens_match_claims_that_were_verified() {
    let (client, headers, token) = (id("shop", "client"), HeaderMap::new(), token());
    let connection = connection(Some(&client));
    for (what, condition, with, without) in table() {
        for (token, matches) in [(Some(&token), with), (None, without)] {
            let asked = Request {
                token,
                ..request("GET", "/info", &headers)
            };
            for (action, is_let_in) in [(Allow, matches), (Deny, !matches), (Custom, !matches)] {
                let answer = protect(&[shop("p", action, vec![from(condition.clone())])]).of_request(
                    &connection,
                    &asked,
                    None,
                );
                assert_eq!(answer.is_ok(), is_let_in, "{what} {action:?} {}", token.is_some());
            }
            let audited = protect(&[shop("p", Audit, vec![from(condition.clone())])])
                .recorded(&connection, Some(&asked));
            assert_eq!(audited.is_audited, matches, "{what}");
        }
    }
}

#[test]
fn a_token_is_in_no_bytes_that_are_no_http() {
    let client = id("shop", "client");
    let connection = connection(Some(&client));
    for (what, condition, ..) in table() {
        for action in [Allow, Deny] {
            let protection = protect(&[shop("p", action, vec![from(condition.clone())])]);
            assert_eq!(
                protection.of_connection(&connection),
                Verdict::NeedsRequests,
                "{what}"
            );
            assert!(
                protection.of_bytes(&connection, None).is_err(),
                "{what} {action:?}"
            );
        }
    }
}
