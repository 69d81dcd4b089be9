//! What the policies of a workload promise.

mod external;
mod fields;
mod index;
mod reuse;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use super::*;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::identity::SpiffeId;
use crate::mesh::policy::authorization::{
    AddressAttribute, Condition, PolicyAction, PolicyRule, PolicyTarget, TextAttribute, TextMatch, Values,
};
use crate::mesh::workload::fixture::pod;

use PolicyAction::{Allow, Audit, Custom, Deny};

const ROOT: &str = "mesh-system";
const NOBODY: BTreeSet<Arc<str>> = BTreeSet::new();

fn policy(namespace: &str, name: &str, action: PolicyAction, rules: Vec<PolicyRule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        namespace: namespace.into(),
        name: name.into(),
        meta: Arc::new(ObjectMeta {
            origin: "test".into(),
            object: format!("AuthorizationPolicy {namespace}/{name}").into(),
            created: None,
        }),
        target: PolicyTarget::Selector(BTreeMap::new()),
        action,
        rules,
        is_dry_run: false,
        provider: None,
    }
}

fn shop(name: &str, action: PolicyAction, rules: Vec<PolicyRule>) -> AuthorizationPolicy {
    policy("shop", name, action, rules)
}

fn selecting(app: &str, policy: AuthorizationPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy {
        target: PolicyTarget::Selector(BTreeMap::from([("app".to_owned(), app.to_owned())])),
        ..policy
    }
}

fn on_trial(policy: AuthorizationPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy {
        is_dry_run: true,
        ..policy
    }
}

/// A rule that matches all.
fn all() -> PolicyRule {
    PolicyRule::default()
}

fn from(condition: Condition) -> PolicyRule {
    PolicyRule {
        from: vec![vec![condition]],
        ..PolicyRule::default()
    }
}

fn to(condition: Condition) -> PolicyRule {
    PolicyRule {
        to: vec![vec![condition]],
        ..PolicyRule::default()
    }
}

fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.into())
}

fn is(of: TextAttribute, any: TextMatch) -> Condition {
    Condition::Text {
        of,
        values: Values {
            any: vec![any],
            none: vec![],
        },
    }
}

fn is_not(of: TextAttribute, none: TextMatch) -> Condition {
    Condition::Text {
        of,
        values: Values {
            any: vec![],
            none: vec![none],
        },
    }
}

fn lies(of: AddressAttribute, block: &str) -> Condition {
    Condition::Address {
        of,
        values: Values {
            any: vec![block.parse().unwrap()],
            none: vec![],
        },
    }
}

fn path(path: &str) -> Condition {
    is(TextAttribute::Path, exact(path))
}

fn of_client(rest: TextMatch) -> Condition {
    is(TextAttribute::Principal, rest)
}

const CLIENT: &str = "cluster.local/ns/shop/sa/client";

fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", namespace, account).unwrap()
}

fn web() -> Workload {
    let mut workload = pod("shop", "web-1");
    workload.labels.insert("app".to_owned(), "web".to_owned());
    workload
}

fn protect(policies: &[AuthorizationPolicy]) -> Arc<Protection> {
    let web = web();
    let (compiled, rejections) =
        Authorization::compile(policies, ROOT, NOBODY, [&web].into_iter(), |_| None, None);
    assert_eq!(rejections, []);
    compiled.of(&web)
}

fn connection(peer: Option<&SpiffeId>) -> Connection<'_> {
    let [source, destination] = ["10.0.1.7", "10.0.2.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
    Connection::new(peer, source, destination, 8080)
}

fn request<'a>(method: &'a str, path: &'a str, headers: &'a HeaderMap) -> Request<'a> {
    Request {
        method,
        path: path.into(),
        host: Host::new("Web.Shop.:8080"),
        headers,
        remote_ip: "192.0.2.5".parse().unwrap(),
        token: None,
    }
}

/// What the client of the shop gets with `GET /info`: as a connection, as bytes that are no HTTP, and as a request.
fn asked(policies: &[AuthorizationPolicy]) -> (Verdict, bool, bool) {
    let client = id("shop", "client");
    let (connection, headers) = (connection(Some(&client)), HeaderMap::new());
    let (protection, request) = (protect(policies), request("GET", "/info", &headers));
    (
        protection.of_connection(&connection),
        protection.of_bytes(&connection, None).is_ok(),
        protection.of_request(&connection, &request, None).is_ok(),
    )
}

fn request_is_let_in(policies: &[AuthorizationPolicy]) -> bool {
    asked(policies).2
}

#[test]
fn the_order_is_custom_deny_allow() {
    for (what, policies, is_let_in) in [
        ("no policy", vec![], true),
        ("ALLOW nothing", vec![shop("a", Allow, vec![])], false),
        ("ALLOW all", vec![shop("a", Allow, vec![all()])], true),
        ("DENY nothing", vec![shop("a", Deny, vec![])], true),
        ("DENY all", vec![shop("a", Deny, vec![all()])], false),
        ("CUSTOM nothing", vec![shop("a", Custom, vec![])], true),
        (
            "CUSTOM all, without a provider",
            vec![shop("a", Custom, vec![all()])],
            false,
        ),
        ("AUDIT all", vec![shop("a", Audit, vec![all()])], true),
        (
            "DENY over ALLOW",
            vec![shop("a", Allow, vec![all()]), shop("b", Deny, vec![all()])],
            false,
        ),
        (
            "one ALLOW of two",
            vec![shop("a", Allow, vec![]), shop("b", Allow, vec![all()])],
            true,
        ),
        (
            "ALLOW of another app",
            vec![selecting("db", shop("a", Allow, vec![]))],
            true,
        ),
        (
            "ALLOW of this app",
            vec![selecting("web", shop("a", Allow, vec![]))],
            false,
        ),
        (
            "another namespace",
            vec![policy("bank", "a", Deny, vec![all()])],
            true,
        ),
        (
            "the root namespace",
            vec![policy(ROOT, "a", Deny, vec![all()])],
            false,
        ),
        (
            "the root namespace, this app",
            vec![selecting("web", policy(ROOT, "a", Deny, vec![all()]))],
            false,
        ),
        (
            "the root namespace, another app",
            vec![selecting("db", policy(ROOT, "a", Deny, vec![all()]))],
            true,
        ),
        ("a dry run", vec![on_trial(shop("a", Deny, vec![all()]))], true),
        (
            "a dry run does not count as an ALLOW policy",
            vec![on_trial(shop("a", Allow, vec![]))],
            true,
        ),
    ] {
        assert_eq!(request_is_let_in(&policies), is_let_in, "{what}");
    }
}

#[test]
fn plaintext_has_no_name_that_could_match() {
    let connection = connection(None);
    for (condition, matches) in [
        (of_client(TextMatch::Present), false),
        (is(TextAttribute::Namespace, TextMatch::Present), false),
        (is_not(TextAttribute::Principal, exact(CLIENT)), true),
        (is_not(TextAttribute::Principal, TextMatch::Present), true),
        (lies(AddressAttribute::Source, "10.0.1.7/32"), true),
    ] {
        let protection = protect(&[shop("p", Allow, vec![from(condition.clone())])]);
        assert_eq!(
            protection.of_bytes(&connection, None).is_ok(),
            matches,
            "{condition:?}"
        );
    }
}

#[test]
fn bytes_that_are_no_http_never_profit_from_rules_about_requests() {
    let asks_both = PolicyRule {
        from: vec![vec![of_client(exact(CLIENT))]],
        to: vec![vec![path("/info")]],
        when: vec![],
    };
    let of_another = PolicyRule {
        from: vec![vec![of_client(exact("cluster.local/ns/shop/sa/other"))]],
        ..asks_both.clone()
    };
    let denied = |rule| {
        Verdict::Denied(Denial::Matched {
            policy: Arc::new(shop("p", Deny, vec![rule])),
            rule: 0,
        })
    };
    for (what, action, rule, expected) in [
        (
            "ALLOW a path",
            Allow,
            asks_both.clone(),
            (Verdict::NeedsRequests, false, true),
        ),
        (
            "DENY a path",
            Deny,
            asks_both,
            (Verdict::NeedsRequests, false, false),
        ),
        (
            "DENY another's path",
            Deny,
            of_another.clone(),
            (Verdict::Allowed, true, true),
        ),
        (
            "ALLOW another's path",
            Allow,
            of_another,
            (Verdict::Denied(Denial::NotAllowed), false, false),
        ),
        ("ALLOW all", Allow, all(), (Verdict::Allowed, true, true)),
        ("DENY all", Deny, all(), (denied(all()), false, false)),
        (
            "ALLOW what nobody knows",
            Allow,
            from(Condition::Unknowable),
            (Verdict::Denied(Denial::NotAllowed), false, false),
        ),
        (
            "DENY what nobody knows",
            Deny,
            from(Condition::Unknowable),
            (denied(from(Condition::Unknowable)), false, false),
        ),
    ] {
        assert_eq!(asked(&[shop("p", action, vec![rule])]), expected, "{what}");
    }
}

#[test]
fn a_remote_block_is_the_peers_where_there_is_no_request() {
    let rule = from(lies(AddressAttribute::Remote, "10.0.1.7/32"));
    let (verdict, bytes, request) = asked(&[shop("p", Allow, vec![rule])]);
    assert_eq!((verdict, bytes, request), (Verdict::NeedsRequests, true, false));
}

#[test]
fn all_conditions_of_a_source_must_hold_and_one_of_the_sources() {
    let here = of_client(exact(CLIENT));
    let elsewhere = lies(AddressAttribute::Source, "10.9.0.0/16");
    let both = PolicyRule {
        from: vec![vec![here.clone(), elsewhere.clone()]],
        ..all()
    };
    let either = PolicyRule {
        from: vec![vec![here], vec![elsewhere]],
        ..all()
    };
    assert!(!request_is_let_in(&[shop("p", Allow, vec![both])]));
    assert!(request_is_let_in(&[shop("p", Allow, vec![either])]));
}

#[test]
fn a_refusal_names_the_first_rule_in_envoys_words() {
    let policies = [
        shop("z", Deny, vec![all()]),
        shop("b", Deny, vec![from(of_client(exact("x"))), all()]),
    ];
    let Verdict::Denied(denial) = asked(&policies).0 else {
        panic!("it is denied");
    };
    let words = "rbac_access_denied_matched_policy[ns[shop]-policy[b]-rule[1]]";
    assert_eq!(denial.to_string(), words);
    let words = "rbac_access_denied_matched_policy[none]";
    assert_eq!(Denial::NotAllowed.to_string(), words);
}

#[test]
fn what_is_only_recorded_is_told_apart() {
    let client = id("shop", "client");
    let (connection, headers) = (connection(Some(&client)), HeaderMap::new());
    let request = request("GET", "/info", &headers);
    let recorded = |policies: &[_]| protect(policies).recorded(&connection, Some(&request));
    let audit = |rule| shop("a", Audit, vec![rule]);
    assert!(recorded(&[audit(all())]).is_audited);
    assert!(!recorded(&[audit(to(path("/other")))]).is_audited);
    for (policies, expected) in [
        (vec![], None),
        (vec![shop("d", Deny, vec![all()])], None),
        (
            vec![on_trial(shop("d", Deny, vec![all()]))],
            Some(DryRun::WouldDeny),
        ),
        (vec![on_trial(shop("d", Deny, vec![]))], Some(DryRun::WouldAllow)),
        (vec![on_trial(shop("a", Allow, vec![]))], Some(DryRun::WouldDeny)),
    ] {
        assert_eq!(recorded(&policies).dry_run, expected, "{policies:?}");
    }
}

#[test]
fn a_policy_for_a_service_protects_the_ports_of_its_pods_and_no_others() {
    let name = ServiceName::new("shop", "web");
    let policy = AuthorizationPolicy {
        target: PolicyTarget::Services(BTreeSet::from([name.clone(), ServiceName::new("shop", "gone")])),
        ..shop("p", Allow, vec![])
    };
    let (web, other) = (web(), pod("shop", "other"));
    let pods = |service: &ServiceName| (*service == name).then(|| vec![(web.uid.clone(), 8080)]);
    let both = [&web, &other].into_iter();
    let (compiled, wrong) = Authorization::compile(&[policy], ROOT, NOBODY, both, pods, None);
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].reason.contains("shop/gone"), "{wrong:?}");
    for (workload, port, is_refused) in [(&web, 8080, true), (&web, 81, false), (&other, 8080, false)] {
        let connection = Connection::new(None, [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), port);
        let answer = compiled.of(workload).of_bytes(&connection, None);
        assert_eq!(answer.is_err(), is_refused, "{} {port}", workload.pod_name);
    }
}
