//! RequestAuthentication: what is read, and that whatever cannot be read refuses.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::*;
use crate::mesh::policy::authorization::{Condition, PolicyTarget, TextAttribute};
use crate::mesh::policy::request_authentication::{
    ClaimHeader, KeySource, RequestAuthentication, TokenLocation,
};
use crate::policy::authentication::testing::{Signer, set};

fn policy(spec: &str) -> (RequestAuthentication, Vec<Rejection>) {
    let mut reading = read(&format!(
        "{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, \
         metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    ));
    assert_eq!(reading.facts.request_authentications.len(), 1, "{spec}");
    (
        reading.facts.request_authentications.remove(0),
        reading.rejections,
    )
}

fn jwks() -> String {
    set(&[Signer::new("k").jwk()])
}

fn names(list: &[&str]) -> Vec<Arc<str>> {
    list.iter().map(|name| Arc::from(*name)).collect()
}

#[test]
fn every_field_is_read() {
    let jwks = jwks();
    let (read, rejections) = policy(&format!(
        "
{{selector: {{matchLabels: {{app: web}}}}, jwtRules: [
  {{issuer: https://a, audiences: [b, c], jwks: '{jwks}', timeout: 2.5s, forwardOriginalToken: true,
    fromHeaders: [{{name: X-Token, prefix: 'jwt '}}, {{name: Authorization, prefix: 'Bearer '}}],
    fromParams: [t], fromCookies: [id], outputPayloadToHeader: X-Payload,
    outputClaimToHeaders: [{{header: x-user, claim: sub}}, {{header: x-deep, claim: a.b.c}}],
    spaceDelimitedClaims: [rights]}},
  {{issuer: a, jwksUri: 'http://keys.a:8000/jwks?x=y'}},
  {{issuer: a, jwks_uri: 'https://keys.a/jwks'}},
  {{issuer: 'https://a'}}]}}"
    ));
    assert_eq!(rejections, []);
    assert!(read.is_whole);
    assert!(matches!(read.target, PolicyTarget::Selector(labels) if labels["app"] == "web"));
    let [full, by_uri, other_spelling, discovered] = &read.rules[..] else {
        panic!("four rules")
    };
    assert_eq!(
        (&*full.issuer, &full.audiences),
        ("https://a", &names(&["b", "c"]))
    );
    assert_eq!(full.keys, KeySource::Inline(jwks.into()));
    assert_eq!(
        (full.timeout, full.forwards_token),
        (Duration::from_millis(2500), true)
    );
    assert_eq!(
        full.locations,
        [
            TokenLocation::Header {
                name: HeaderName::from_static("x-token"),
                prefix: "jwt ".into()
            },
            TokenLocation::Bearer,
            TokenLocation::Parameter("t".into()),
            TokenLocation::Cookie("id".into()),
        ]
    );
    assert_eq!(full.payload_header, Some(HeaderName::from_static("x-payload")));
    let claim = |header, claim: &[&str]| ClaimHeader {
        header: HeaderName::from_static(header),
        claim: names(claim),
    };
    assert_eq!(
        full.claim_headers,
        [claim("x-user", &["sub"]), claim("x-deep", &["a", "b", "c"])]
    );
    assert_eq!(full.spaced, names(&["rights"]));
    assert_eq!(by_uri.keys, KeySource::Uri("http://keys.a:8000/jwks?x=y".into()));
    assert_eq!(other_spelling.keys, KeySource::Uri("https://keys.a/jwks".into()));
    assert_eq!(discovered.keys, KeySource::Issuer("https://a".into()));
    assert_eq!(
        (by_uri.timeout, by_uri.forwards_token),
        (Duration::from_secs(5), false)
    );
    assert_eq!(
        by_uri.locations,
        [
            TokenLocation::Bearer,
            TokenLocation::Parameter("access_token".into())
        ]
    );
}

#[test]
fn what_is_wrong_beyond_the_keys_makes_the_policy_refuse_and_is_named() {
    let rule = |more: &str| format!("{{jwtRules: [{{issuer: a, jwks: '{}'{more}}}]}}", jwks());
    for (spec, field) in [
        ("7".to_owned(), "spec"),
        ("{jwtRules: {}}".to_owned(), "spec.jwtRules"),
        ("{jwtrules: []}".to_owned(), "spec.jwtrules"),
        ("{jwtRules: [7]}".to_owned(), "spec.jwtRules[0]"),
        ("{jwtRules: [{jwks: ''}]}".to_owned(), "spec.jwtRules[0]"),
        (
            "{selector: {matchExpressions: []}}".to_owned(),
            "spec.selector.matchExpressions",
        ),
        ("{targetRefs: []}".to_owned(), "spec.targetRefs"),
        (
            "{targetRefs: [{kind: Service, name: a, namespace: bank}]}".to_owned(),
            "spec.targetRefs[0].namespace",
        ),
        (
            rule("").replace("issuer: a", "issuer: ''"),
            "spec.jwtRules[0].issuer",
        ),
        (
            rule("").replace("issuer: a", "issuer: 7"),
            "spec.jwtRules[0].issuer",
        ),
        (rule(", audience: b"), "spec.jwtRules[0].audience"),
        (rule(", audiences: b"), "spec.jwtRules[0].audiences"),
        (rule(", audiences: ['']"), "spec.jwtRules[0].audiences"),
        (
            rule(", fromHeaders: [{name: 'a b'}]"),
            "spec.jwtRules[0].fromHeaders[0].name",
        ),
        (
            rule(", fromHeaders: [{prefix: a}]"),
            "spec.jwtRules[0].fromHeaders[0]",
        ),
        (rule(", fromParams: ['']"), "spec.jwtRules[0].fromParams"),
        (rule(", fromCookies: [7]"), "spec.jwtRules[0].fromCookies[0]"),
        (
            rule(", outputPayloadToHeader: 'a b'"),
            "spec.jwtRules[0].outputPayloadToHeader",
        ),
        (
            rule(", outputPayloadToHeader: host"),
            "spec.jwtRules[0].outputPayloadToHeader",
        ),
        (
            rule(", outputClaimToHeaders: [{header: content-length, claim: a}]"),
            "spec.jwtRules[0].outputClaimToHeaders[0].header",
        ),
        (
            rule(", outputClaimToHeaders: [{header: x, claim: a..b}]"),
            "spec.jwtRules[0].outputClaimToHeaders[0].claim",
        ),
        (
            rule(", forwardOriginalToken: 'no'"),
            "spec.jwtRules[0].forwardOriginalToken",
        ),
        (
            rule(", spaceDelimitedClaims: scope"),
            "spec.jwtRules[0].spaceDelimitedClaims",
        ),
    ] {
        let (read, rejections) = policy(&spec);
        let fields: Vec<_> = rejections.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, [field], "{spec}");
        assert!(!read.is_whole, "{spec}");
        assert!(rejections[0].reason.contains("401"), "{}", rejections[0].reason);
    }
}

#[test]
fn keys_that_cannot_be_read_leave_their_issuer_without() {
    for (keys, field) in [
        ("jwks: '{}'".to_owned(), "jwks"),
        ("jwks: nonsense".to_owned(), "jwks"),
        (format!("jwks: '{}', jwksUri: 'http://a/'", jwks()), "jwksUri"),
        ("jwksUri: 'ftp://a/'".to_owned(), "jwksUri"),
        ("jwksUri: 'file:///etc/passwd'".to_owned(), "jwksUri"),
        ("jwksUri: a".to_owned(), "jwksUri"),
        ("jwksUri: 'http://user:word@a/'".to_owned(), "jwksUri"),
        ("jwks: ''".to_owned(), "jwksUri"),
    ] {
        let (read, rejections) = policy(&format!("{{jwtRules: [{{issuer: a, {keys}}}]}}"));
        let fields: Vec<_> = rejections.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, [format!("spec.jwtRules[0].{field}")], "{keys}");
        assert!(read.is_whole, "{keys}");
        assert_eq!(read.rules[0].keys, KeySource::Unreadable, "{keys}");
    }
    for timeout in ["0s", "2m", "soon", "-1s"] {
        let (read, rejections) = policy(&format!(
            "{{jwtRules: [{{issuer: a, jwksUri: 'http://a/', timeout: {timeout}}}]}}"
        ));
        assert_eq!(rejections[0].field, "spec.jwtRules[0].timeout", "{timeout}");
        assert_eq!(
            (read.is_whole, read.rules[0].timeout.as_secs()),
            (true, 5),
            "{timeout}"
        );
    }
}

#[test]
fn rules_about_tokens_are_read() {
    let reading = read(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  rules:
  - from: [{source: {requestPrincipals: ['https://a/*'], notRequestPrincipals: ['*/bob']}}]
    when:
    - {key: request.auth.principal, values: ['*']}
    - {key: request.auth.audiences, values: [shop]}
    - {key: request.auth.presenter, notValues: [app]}
    - {key: 'request.auth.claims[groups]', values: [admin]}
    - {key: 'request.auth.claims[deep][er.a]', values: [x]}
",
    );
    assert_eq!(reading.rejections, []);
    let rule = &reading.facts.authorization_policies[0].rules[0];
    let asked: Vec<_> = rule.from[0]
        .iter()
        .chain(&rule.when)
        .map(|condition| match condition {
            Condition::Text { of, values } => (of.clone(), values.any.len(), values.none.len()),
            Condition::Address { .. } | Condition::Port(_) | Condition::Unknowable => panic!("{condition:?}"),
        })
        .collect();
    assert_eq!(
        asked,
        [
            (TextAttribute::RequestPrincipal, 1, 1),
            (TextAttribute::RequestPrincipal, 1, 0),
            (TextAttribute::Audience, 1, 0),
            (TextAttribute::Presenter, 0, 1),
            (TextAttribute::Claim(names(&["groups"]).into()), 1, 0),
            (TextAttribute::Claim(names(&["deep", "er.a"]).into()), 1, 0),
        ]
    );
}
