//! What a `RateLimitPolicy` says, and what makes it say nothing.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;

use crate::control::Reading;
use crate::control::manifest::documents;
use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::PolicyTarget;
use crate::mesh::policy::external::AuthorizerTarget;
use crate::mesh::policy::rate_limit::{
    DescriptorValue, GrpcRefusal, KeyPart, LimitPath, LimitUnit, RateLimitPolicy,
};
use crate::mesh::route::ValueMatch;
use crate::mesh::service::ServiceName;

/// Every field once.
pub(in crate::control::translate) const WHOLE: &str = "
apiVersion: mesh-agent.dev/v1alpha1
kind: RateLimitPolicy
metadata: { name: p, namespace: shop }
spec:
  targetRefs: [{ group: '', kind: Service, name: cart }]
  grpcStatus: RESOURCE_EXHAUSTED
  limits:
  - match:
      path: { type: Exact, value: /add }
      method: POST
      headers:
      - { name: x-tier, value: free }
      - { type: Prefix, name: X-Other, value: a }
      - { type: RegularExpression, name: x-digits, value: '[0-9]+' }
      - { type: Present, name: x-any }
    key: [{ type: Source }, { type: Header, name: X-User }, { type: Path }, { type: Claim, name: realm.role }]
    local: { requests: 10, unit: minute, burst: 20, divided: true }
    global:
      service: limiter.infra.svc.cluster.local
      port: 8081
      domain: shop
      descriptors:
      - entries: [{ key: generic_key, value: add }, { key: user, from: { type: Header, name: x-user } }]
      timeout: 50ms
      failureMode: deny
";

pub(super) fn read(text: &str) -> Reading {
    let (documents, rejections) = documents("f", text, false);
    assert_eq!(rejections, []);
    crate::control::translate::translate(documents, "cluster.local")
}

fn one(text: &str) -> RateLimitPolicy {
    let Reading {
        facts, rejections, ..
    } = read(text);
    assert_eq!(rejections, []);
    let [policy] = &facts.rate_limit_policies[..] else {
        panic!("{facts:?}")
    };
    policy.clone()
}

/// What is wrong with a policy that counts nothing.
pub(super) fn wrong(text: &str) -> Vec<Rejection> {
    let Reading {
        facts, rejections, ..
    } = read(text);
    assert_eq!(facts.rate_limit_policies, []);
    rejections
}

#[test]
fn every_field_is_read() {
    let policy = one(WHOLE);
    let cart = ServiceName::new("shop", "cart");
    assert_eq!(policy.target, PolicyTarget::Services([cart].into()));
    assert_eq!(policy.grpc_status, GrpcRefusal::ResourceExhausted);
    assert!(!policy.is_dry_run);
    let [limit] = &policy.limits[..] else { panic!() };
    assert_eq!(limit.of.path, Some(LimitPath::Exact("/add".into())));
    assert_eq!(limit.of.method.as_deref(), Some("POST"));
    let header = HeaderName::from_static;
    let headers = &limit.of.headers;
    assert_eq!(headers[0], (header("x-tier"), ValueMatch::Exact("free".into())));
    assert_eq!(headers[1], (header("x-other"), ValueMatch::Prefix("a".into())));
    assert!(headers[2].1.holds(b"12") && !headers[2].1.holds(b"x"));
    assert_eq!(headers[3], (header("x-any"), ValueMatch::Present));
    let claim = KeyPart::Claim(["realm".into(), "role".into()].into());
    let user = KeyPart::Header(header("x-user"));
    assert_eq!(limit.key, [KeyPart::Source, user.clone(), KeyPart::Path, claim]);
    let local = limit.local.unwrap();
    assert_eq!((local.requests.get(), local.burst.get()), (10, 20));
    assert_eq!((local.unit, local.is_divided), (LimitUnit::Minute, true));
    let global = limit.global.as_ref().unwrap();
    let limiter = AuthorizerTarget::Service(ServiceName::new("infra", "limiter"));
    assert_eq!(
        (&global.target, global.port, &*global.domain),
        (&limiter, 8081, "shop")
    );
    assert_eq!(
        (global.timeout, global.fails_open),
        (Duration::from_millis(50), false)
    );
    let [entries] = &global.descriptors[..] else {
        panic!()
    };
    assert_eq!(entries[0].value, DescriptorValue::Fixed("add".into()));
    assert_eq!(entries[1].value, DescriptorValue::Of(user));
}

fn with(limit: &str) -> String {
    format!(
        "apiVersion: mesh-agent.dev/v1alpha1\nkind: RateLimitPolicy\n\
         metadata: {{ name: p, namespace: shop }}\nspec: {{ limits: [{limit}] }}\n"
    )
}

#[test]
fn what_is_not_said_is_the_default() {
    let policy = one(&with("{ local: { requests: 7, unit: second } }"));
    assert_eq!(policy.target, PolicyTarget::Selector([].into()));
    assert_eq!(policy.grpc_status, GrpcRefusal::Unavailable);
    let local = policy.limits[0].local.unwrap();
    assert_eq!(
        (local.burst, local.is_divided),
        (NonZeroU32::new(7).unwrap(), false)
    );
    let global = "{ global: { service: 10.0.0.1, port: 1, domain: d, \
                  descriptors: [{ entries: [{ key: k, value: v }] }] } }";
    let policy = one(&with(global));
    let global = policy.limits[0].global.as_ref().unwrap();
    assert_eq!(
        (global.timeout, global.fails_open),
        (Duration::from_millis(20), true)
    );
    assert_eq!(global.target, AuthorizerTarget::Addr([10, 0, 0, 1].into()));
}

/// Limits that are wrong, where, and whether the schema sees it too.
pub(super) const WRONG: [(&str, &str, bool); 29] = [
    ("{}", "local", false),
    ("{ nonsense: 1 }", "", true),
    ("{ local: { requests: 0, unit: second } }", "local.requests", true),
    (
        "{ local: { requests: 2000000000, unit: second } }",
        "local.requests",
        true,
    ),
    (
        "{ local: { requests: -1, unit: second } }",
        "local.requests",
        true,
    ),
    ("{ local: { requests: 1, unit: day } }", "local.unit", true),
    ("{ local: { requests: 1 } }", "local", true),
    (
        "{ local: { requests: 1, unit: second, burst: 0 } }",
        "local.burst",
        true,
    ),
    (
        "{ local: { requests: 1, unit: second, brust: 1 } }",
        "local",
        true,
    ),
    (
        "{ local: { requests: 2, unit: second, divided: true } }",
        "local.divided",
        false,
    ),
    (
        "{ key: [{ type: Source }], local: { requests: 1, unit: second, divided: true } }",
        "local.burst",
        false,
    ),
    (
        "{ key: [{ type: Sauce }], local: { requests: 1, unit: second } }",
        "key[0].type",
        true,
    ),
    (
        "{ key: [{ type: Source, name: x }], local: { requests: 1, unit: second } }",
        "key[0].name",
        false,
    ),
    (
        "{ key: [{ type: Header }], local: { requests: 1, unit: second } }",
        "key[0].name",
        false,
    ),
    (
        "{ key: [{ type: Header, name: 'x y' }], local: { requests: 1, unit: second } }",
        "key[0].name",
        false,
    ),
    (
        "{ key: [{ type: Claim, name: a..b }], local: { requests: 1, unit: second } }",
        "key[0].name",
        false,
    ),
    (
        "{ match: { path: { value: add } }, local: { requests: 1, unit: second } }",
        "match.path.value",
        false,
    ),
    (
        "{ match: { path: { type: Regex, value: / } }, local: { requests: 1, unit: second } }",
        "match.path.type",
        true,
    ),
    (
        "{ match: { method: get }, local: { requests: 1, unit: second } }",
        "match.method",
        false,
    ),
    (
        "{ match: { headers: [{ name: a }] }, local: { requests: 1, unit: second } }",
        "match.headers[0].value",
        false,
    ),
    (
        "{ match: { headers: [{ name: a, type: RegularExpression, value: '(' }] }, \
         local: { requests: 1, unit: second } }",
        "match.headers[0].value",
        false,
    ),
    (
        "{ match: { query: [] }, local: { requests: 1, unit: second } }",
        "match",
        true,
    ),
    (
        "{ global: { port: 1, domain: d, descriptors: [{ entries: [{ key: k, value: v }] }] } }",
        "global",
        true,
    ),
    (
        "{ global: { service: www.example.com, port: 1, domain: d, descriptors: [{ entries: [{ key: k, value: v }] }] } }",
        "global.service",
        false,
    ),
    (
        "{ global: { service: 10.0.0.1, port: 0, domain: d, descriptors: [{ entries: [{ key: k, value: v }] }] } }",
        "global.port",
        true,
    ),
    (
        "{ global: { service: 10.0.0.1, port: 1, domain: d, descriptors: [] } }",
        "global.descriptors",
        true,
    ),
    (
        "{ global: { service: 10.0.0.1, port: 1, domain: d, descriptors: [{ entries: [{ key: k }] }] } }",
        "global.descriptors[0].entries[0]",
        false,
    ),
    (
        "{ global: { service: 10.0.0.1, port: 1, domain: d, timeout: 2m, \
         descriptors: [{ entries: [{ key: k, value: v }] }] } }",
        "global.timeout",
        false,
    ),
    (
        "{ global: { service: 10.0.0.1, port: 1, domain: d, failureMode: shut, \
         descriptors: [{ entries: [{ key: k, value: v }] }] } }",
        "global.failureMode",
        true,
    ),
];

pub(super) fn wrong_policy(limit: &str) -> String {
    with(limit)
}

#[test]
fn a_policy_that_is_wrong_is_named_by_field_and_limits_nothing() {
    for (limit, field, _) in WRONG {
        let rejections = wrong(&with(limit));
        let [rejection] = &rejections[..] else {
            panic!("{limit}: {rejections:?}")
        };
        let expected = format!("spec.limits[0].{field}");
        assert!(
            rejection.field.starts_with(expected.trim_end_matches('.')),
            "{limit}: {rejection}"
        );
        assert!(
            rejection.reason.ends_with("the policy limits nothing"),
            "{rejection}"
        );
    }
    for (change, field) in [
        (
            ("grpcStatus: RESOURCE_EXHAUSTED", "grpcStatus: OK"),
            "spec.grpcStatus",
        ),
        (("name: cart", "name: cart, port: 1"), "spec.targetRefs[0].port"),
        (("kind: Service, ", ""), "spec.targetRefs[0]"),
        (
            ("name: cart", "name: cart, namespace: other"),
            "spec.targetRefs[0].namespace",
        ),
        (
            ("  targetRefs:", "  selector: {}\n  targetRefs:"),
            "spec.selector",
        ),
    ] {
        let text = WHOLE.replacen(change.0, change.1, 1);
        let rejections = wrong(&text);
        assert_eq!(rejections.len(), 1, "{change:?}");
        assert_eq!(rejections[0].field.split(": ").next(), Some(field), "{change:?}");
    }
}

#[test]
fn on_trial_no_service_is_asked_and_that_is_said() {
    let text = WHOLE.replace(
        "namespace: shop }",
        "namespace: shop, annotations: { istio.io/dry-run: 'true' } }",
    );
    let Reading {
        facts, rejections, ..
    } = read(&text);
    assert!(facts.rate_limit_policies[0].is_dry_run);
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].field, "spec.limits[0].global");
}

#[test]
fn another_groups_kind_of_this_name_is_not_taken_for_it() {
    let text = WHOLE.replace("mesh-agent.dev/v1alpha1", "kuadrant.io/v1");
    let Reading {
        facts,
        rejections,
        skipped,
        ..
    } = read(&text);
    assert_eq!(
        (facts.rate_limit_policies.len(), rejections.len(), skipped),
        (0, 0, 1)
    );
}
