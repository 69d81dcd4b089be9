//! AuthorizationPolicy: what is read, and that whatever cannot be read refuses.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::mesh::policy::authorization::{
    AddressAttribute, AuthorizationPolicy, Condition, PolicyAction, PolicyRule, PolicyTarget, Segment,
    TextAttribute, TextMatch, Values,
};
use crate::mesh::service::ServiceName;

fn policy(metadata: &str, spec: &str) -> (AuthorizationPolicy, Vec<Rejection>) {
    let mut reading = read(&format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {metadata}, spec: {spec}}}"
    ));
    assert_eq!(reading.facts.authorization_policies.len(), 1, "{spec}");
    (reading.facts.authorization_policies.remove(0), reading.rejections)
}

fn shop(spec: &str) -> (AuthorizationPolicy, Vec<Rejection>) {
    policy("{name: p, namespace: shop}", spec)
}

fn text(of: TextAttribute, any: &[TextMatch], none: &[TextMatch]) -> Condition {
    Condition::Text {
        of,
        values: Values {
            any: any.to_vec(),
            none: none.to_vec(),
        },
    }
}

fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.into())
}

fn blocks(of: AddressAttribute, any: &[&str], none: &[&str]) -> Condition {
    let parsed = |list: &[&str]| list.iter().map(|block| block.parse().unwrap()).collect();
    Condition::Address {
        of,
        values: Values {
            any: parsed(any),
            none: parsed(none),
        },
    }
}

#[test]
fn every_field_is_read() {
    let (read, rejections) = shop(
        "
{selector: {matchLabels: {app: web}}, action: DENY, rules: [
  {from: [
    {source: {principals: [cluster.local/ns/a/sa/b, 'x*'], notPrincipals: ['*y'], namespaces: ['*'],
              ipBlocks: [10.0.0.0/8, 10.1.2.3], notIpBlocks: ['fd00::/8'], notRemoteIpBlocks: [192.0.2.7/24]}},
    {source: {serviceAccounts: [web, bank/till], trustDomains: [other]}}],
   to: [{operation: {hosts: [Shop.Example., '*.Org'], ports: ['80'], notPorts: ['81'], methods: [GET],
                     paths: ['/a/{*}/{**}', '/b*'], notPaths: [/b/c]}}],
   when: [{key: 'request.headers[X-Role]', values: [admin]}, {key: destination.port, notValues: ['9']},
          {key: source.ip, values: ['::1']}, {key: 'request.headers[:method]', values: [PUT]}]}]}",
    );
    assert_eq!(rejections, []);
    assert_eq!(read.action, PolicyAction::Deny);
    assert_eq!(
        read.target,
        PolicyTarget::Selector(BTreeMap::from([("app".into(), "web".into())]))
    );
    assert!(!read.is_dry_run);
    assert_eq!(read.rules, [every_field()]);
}

fn every_field() -> PolicyRule {
    let path = TextMatch::Template(
        [
            Segment::Literal("".into()),
            Segment::Literal("a".into()),
            Segment::One,
            Segment::Rest,
        ]
        .into(),
    );
    PolicyRule {
        from: vec![
            vec![
                text(
                    TextAttribute::Principal,
                    &[exact("cluster.local/ns/a/sa/b"), TextMatch::Prefix("x".into())],
                    &[TextMatch::Suffix("y".into())],
                ),
                text(TextAttribute::Namespace, &[TextMatch::Present], &[]),
                blocks(
                    AddressAttribute::Source,
                    &["10.0.0.0/8", "10.1.2.3/32"],
                    &["fd00::/8"],
                ),
                blocks(AddressAttribute::Remote, &[], &["192.0.2.0/24"]),
            ],
            vec![
                text(
                    TextAttribute::ServiceAccount,
                    &[exact("shop/web"), exact("bank/till")],
                    &[],
                ),
                text(TextAttribute::TrustDomain, &[exact("other")], &[]),
            ],
        ],
        to: vec![vec![
            text(
                TextAttribute::Host,
                &[exact("shop.example"), TextMatch::Suffix(".org".into())],
                &[],
            ),
            Condition::Port(Values {
                any: vec![80],
                none: vec![81],
            }),
            text(TextAttribute::Method, &[exact("GET")], &[]),
            text(
                TextAttribute::Path,
                &[path, TextMatch::Prefix("/b".into())],
                &[exact("/b/c")],
            ),
        ]],
        when: vec![
            text(TextAttribute::Header("x-role".into()), &[exact("admin")], &[]),
            Condition::Port(Values {
                any: vec![],
                none: vec![9],
            }),
            blocks(AddressAttribute::Source, &["::1/128"], &[]),
            text(TextAttribute::Method, &[exact("PUT")], &[]),
        ],
    }
}

#[test]
fn what_is_left_out_has_istios_default() {
    let (nothing, rejections) = shop("{}");
    assert_eq!(rejections, []);
    assert_eq!((nothing.action, nothing.rules.len()), (PolicyAction::Allow, 0));
    assert_eq!(nothing.target, PolicyTarget::Selector(BTreeMap::new()));
    let (all, rejections) = shop("{rules: [{}]}");
    assert_eq!((all.rules, rejections), (vec![PolicyRule::default()], vec![]));
}

#[test]
fn cluster_local_means_this_trust_domain() {
    let manifest = "{apiVersion: security.istio.io/v1beta1, kind: AuthorizationPolicy, metadata: {name: p},
      spec: {rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b, spiffe://x.org/ns/a/sa/b]}}]}]}}";
    let (documents, _) = documents("f.yaml", manifest, false);
    let reading = translate(documents, "example.org");
    let rule = &reading.facts.authorization_policies[0].rules[0];
    let principals = [exact("example.org/ns/a/sa/b"), exact("x.org/ns/a/sa/b")];
    assert_eq!(rule.from, [[text(TextAttribute::Principal, &principals, &[])]]);
}

#[test]
fn targets_are_services_of_the_policys_namespace() {
    let service = |name| ServiceName::new("shop", name);
    for (spec, services, fields) in [
        (
            "{targetRefs: [{group: '', kind: Service, name: web}, {kind: Service, name: db, namespace: shop}]}",
            BTreeSet::from([service("web"), service("db")]),
            &[][..],
        ),
        (
            "{targetRef: {kind: Service, name: web}}",
            BTreeSet::from([service("web")]),
            &[],
        ),
        (
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]}",
            BTreeSet::new(),
            &["spec.targetRefs[0].kind"],
        ),
    ] {
        let (policy, rejections) = shop(spec);
        assert_eq!(policy.target, PolicyTarget::Services(services), "{spec}");
        let found: Vec<_> = rejections
            .iter()
            .map(|rejection| rejection.field.as_str())
            .collect();
        assert_eq!(found, fields, "{spec}");
    }
}

#[test]
fn the_dry_run_annotation_is_read_and_a_wrong_one_enforces() {
    for (value, is_dry_run, rejected) in [("'true'", true, 0), ("'false'", false, 0), ("'yes'", false, 1)] {
        let metadata = format!("{{name: p, annotations: {{istio.io/dry-run: {value}}}}}");
        let (policy, rejections) = policy(&metadata, "{}");
        assert_eq!(
            (policy.is_dry_run, rejections.len()),
            (is_dry_run, rejected),
            "{value}"
        );
    }
}

#[test]
fn a_policy_that_is_wrong_as_a_whole_denies_all_that_it_selects() {
    let selector = PolicyTarget::Selector(BTreeMap::from([("app".into(), "web".into())]));
    let everybody = PolicyTarget::Selector(BTreeMap::new());
    for (spec, field, target) in [
        (
            "{selector: {matchLabels: {app: web}}, action: MAYBE}",
            "spec.action",
            &selector,
        ),
        (
            "{selector: {matchLabels: {app: web}}, action: 5}",
            "spec.action",
            &selector,
        ),
        (
            "{selector: {matchLabels: {app: web}}, rules: {}}",
            "spec.rules",
            &selector,
        ),
        (
            "{selector: {matchLabels: {app: web}}, rule: []}",
            "spec.rule",
            &selector,
        ),
        (
            "{selector: {matchLabels: {app: web}}, provider: {name: p}}",
            "spec.provider",
            &selector,
        ),
        (
            "{selector: {matchLabels: {app: web}, matchExpressions: []}}",
            "spec.selector.matchExpressions",
            &selector,
        ),
        (
            "{selector: {matchLabels: {app: 5}}}",
            "spec.selector.matchLabels.app",
            &everybody,
        ),
        ("{selector: web}", "spec.selector", &everybody),
        ("{targetRefs: []}", "spec.targetRefs", &everybody),
        (
            "{targetRefs: [{kind: Service}]}",
            "spec.targetRefs[0]",
            &everybody,
        ),
        (
            "{targetRefs: [{kind: Service, name: a, namespace: bank}]}",
            "spec.targetRefs[0].namespace",
            &everybody,
        ),
        (
            "{selector: {matchLabels: {app: web}}, targetRefs: [{kind: Service, name: a}]}",
            "spec.selector",
            &everybody,
        ),
        ("deny", "spec", &everybody),
    ] {
        let (policy, rejections) = shop(spec);
        assert_eq!(
            (policy.action, policy.rules),
            (PolicyAction::Deny, vec![PolicyRule::default()]),
            "{spec}"
        );
        assert_eq!(&policy.target, target, "{spec}");
        assert_eq!(rejections.len(), 1, "{spec}: {rejections:?}");
        assert_eq!(rejections[0].field, field, "{spec}");
    }
}

/// The same in `from`, `to` and `when`: what is wrong stays in its rule, as something that nobody knows.
#[test]
fn a_part_of_a_rule_that_is_wrong_is_named_and_errs_towards_refusing() {
    for (rule, field) in WRONG {
        for (action, effect) in [
            ("ALLOW", "never matches"),
            ("DENY", "matches as if it did not ask for it"),
        ] {
            let (policy, rejections) = shop(&format!("{{action: {action}, rules: [{rule}]}}"));
            assert_eq!(policy.action.as_str(), action, "{rule}");
            let read = &policy.rules[0];
            let alternatives = read.from.iter().chain(&read.to).flatten();
            let doubts = alternatives
                .chain(&read.when)
                .filter(|one| **one == Condition::Unknowable);
            assert_eq!(doubts.count(), 1, "{rule}: {read:?}");
            assert_eq!(rejections.len(), 1, "{rule}: {rejections:?}");
            let path = if field.is_empty() {
                String::new()
            } else {
                format!(".{field}")
            };
            assert_eq!(rejections[0].field, format!("spec.rules[0]{path}"), "{rule}");
            assert!(
                rejections[0].reason.contains(effect),
                "{rule}: {}",
                rejections[0].reason
            );
        }
    }
}

#[test]
fn custom_names_who_is_asked() {
    let (policy, rejections) = shop("{action: CUSTOM, provider: {name: opa}, rules: [{}]}");
    assert_eq!((policy.action, policy.rules.len()), (PolicyAction::Custom, 1));
    assert_eq!(policy.provider.as_deref(), Some("opa"));
    assert_eq!(rejections, []);
    let (policy, rejections) = shop("{action: CUSTOM, rules: [{}]}");
    assert_eq!((policy.action, policy.provider), (PolicyAction::Custom, None));
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].field, "spec.provider.name");
}

/// A rule, and the field of it that is wrong.
const WRONG: [(&str, &str); 31] = [
    ("{from: []}", "from"),
    ("{from: [{}]}", "from[0].source"),
    ("{from: [{source: {}}]}", "from[0].source"),
    (
        "{from: [{source: {principals: []}}]}",
        "from[0].source.principals",
    ),
    (
        "{from: [{source: {principals: [5]}}]}",
        "from[0].source.principals[0]",
    ),
    (
        "{from: [{source: {principals: ['']}}]}",
        "from[0].source.principals[0]",
    ),
    ("{from: [{source: {user: [a]}}]}", "from[0].source.user"),
    (
        "{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}",
        "from[0].source.ipBlocks[0]",
    ),
    (
        "{from: [{source: {ipBlocks: [host]}}]}",
        "from[0].source.ipBlocks[0]",
    ),
    (
        "{from: [{source: {requestPrincipals: []}}]}",
        "from[0].source.requestPrincipals",
    ),
    (
        "{from: [{source: {serviceAccounts: ['a*']}}]}",
        "from[0].source.serviceAccounts[0]",
    ),
    (
        "{from: [{source: {serviceAccounts: [a/b/c]}}]}",
        "from[0].source.serviceAccounts[0]",
    ),
    (
        "{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}",
        "from[0].source.serviceAccounts",
    ),
    (
        "{from: [{sources: {principals: [a]}, source: {principals: [a]}}]}",
        "from[0].sources",
    ),
    ("{to: {}}", "to"),
    (
        "{to: [{operation: {ports: ['http']}}]}",
        "to[0].operation.ports[0]",
    ),
    ("{to: [{operation: {ports: ['0']}}]}", "to[0].operation.ports[0]"),
    ("{to: [{operation: {ports: [80]}}]}", "to[0].operation.ports[0]"),
    (
        "{to: [{operation: {paths: ['/{**}/{**}']}}]}",
        "to[0].operation.paths[0]",
    ),
    (
        "{to: [{operation: {paths: ['/a{*}']}}]}",
        "to[0].operation.paths[0]",
    ),
    (
        "{to: [{operation: {paths: ['/{*}/b*']}}]}",
        "to[0].operation.paths[0]",
    ),
    ("{when: [{values: [a]}]}", "when[0].key"),
    ("{when: [{key: source.ip}]}", "when[0]"),
    ("{when: [{key: connection.sni, values: [a]}]}", "when[0].key"),
    (
        "{when: [{key: 'request.headers[a b]', values: [a]}]}",
        "when[0].key",
    ),
    (
        "{when: [{key: 'request.auth.claims', values: [a]}]}",
        "when[0].key",
    ),
    (
        "{when: [{key: 'request.auth.claims[a]b]', values: [a]}]}",
        "when[0].key",
    ),
    ("{when: [{key: request.auth.token, values: [a]}]}", "when[0].key"),
    ("{when: [{key: source.ip, value: [a]}]}", "when[0].value"),
    ("{unless: []}", "unless"),
    ("all", ""),
];
