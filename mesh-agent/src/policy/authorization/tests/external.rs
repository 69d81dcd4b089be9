//! CUSTOM: whose decision must be had, and what is refused where nobody can be asked.

use super::*;

fn custom(name: &str, provider: Option<&str>, rules: Vec<PolicyRule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        provider: provider.map(Into::into),
        ..shop(name, Custom, rules)
    }
}

fn declared(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn compiled(policies: &[AuthorizationPolicy], providers: &[&str]) -> (Arc<Protection>, Vec<Rejection>) {
    let web = web();
    let (compiled, rejections) = Authorization::compile(
        policies,
        ROOT,
        declared(providers),
        [&web].into_iter(),
        |_| None,
        None,
    );
    (compiled.of(&web), rejections)
}

fn on_path(wanted: &str) -> PolicyRule {
    to(path(wanted))
}

/// What a GET gets: who is asked, or whether it is let in.
fn judged(protection: &Protection, path: &str, approved: Option<&str>) -> Result<Option<Arc<str>>, Denial> {
    let (client, headers) = (id("shop", "client"), HeaderMap::new());
    let asked = request("GET", path, &headers);
    let judgement = protection.of_request(&connection(Some(&client)), &asked, approved)?;
    Ok(match judgement {
        Judgement::Allowed => None,
        Judgement::Ask(ask) => Some(ask.provider),
    })
}

#[test]
fn somebody_is_asked_only_about_what_a_custom_rule_matches() {
    let (protection, rejections) = compiled(&[custom("c", Some("opa"), vec![on_path("/a")])], &["opa"]);
    assert_eq!(rejections, []);
    assert_eq!(judged(&protection, "/a", None), Ok(Some("opa".into())));
    assert_eq!(judged(&protection, "/b", None), Ok(None));
    assert_eq!(judged(&protection, "/a", Some("opa")), Ok(None));
    assert_eq!(judged(&protection, "/a", Some("other")), Ok(Some("opa".into())));
}

#[test]
fn who_must_be_asked_is_asked_before_the_others_and_the_others_still_judge() {
    for (policy, what) in [
        (shop("d", Deny, vec![on_path("/a")]), "DENY"),
        (shop("d", Allow, vec![on_path("/b")]), "ALLOW"),
    ] {
        let policies = [custom("c", Some("opa"), vec![all()]), policy];
        let (protection, _) = compiled(&policies, &["opa"]);
        assert_eq!(judged(&protection, "/a", None), Ok(Some("opa".into())), "{what}");
        assert!(judged(&protection, "/a", Some("opa")).is_err(), "{what}");
        assert_eq!(judged(&protection, "/b", Some("opa")), Ok(None), "{what}");
    }
}

#[test]
fn a_provider_that_nobody_declared_refuses_what_is_matched_and_is_named() {
    let policies = [custom("c", Some("opa"), vec![on_path("/a")])];
    let (protection, rejections) = compiled(&policies, &["another"]);
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].field, "spec.provider.name");
    assert!(judged(&protection, "/a", None).is_err());
    assert!(
        judged(&protection, "/a", Some("opa")).is_err(),
        "an approval counts no more"
    );
    assert_eq!(judged(&protection, "/b", None), Ok(None));
}

#[test]
fn of_two_providers_for_one_workload_the_first_counts_and_the_other_refuses() {
    let policies = [
        custom("b", Some("second"), vec![on_path("/b")]),
        custom("a", Some("first"), vec![on_path("/a")]),
        custom("c", Some("first"), vec![on_path("/c")]),
    ];
    let (protection, rejections) = compiled(&policies, &["first", "second"]);
    let named: Vec<_> = rejections
        .iter()
        .map(|rejection| rejection.object.as_str())
        .collect();
    assert_eq!(named, ["AuthorizationPolicy shop/b"]);
    assert_eq!(judged(&protection, "/a", None), Ok(Some("first".into())));
    assert_eq!(judged(&protection, "/c", None), Ok(Some("first".into())));
    assert!(judged(&protection, "/b", None).is_err());
}

/// What bytes that are no HTTP get: who is asked, or whether they are let in.
fn of_bytes(protection: &Protection, approved: Option<&str>) -> Result<Option<Arc<str>>, Denial> {
    let client = id("shop", "client");
    let connection = connection(Some(&client));
    assert_eq!(protection.of_connection(&connection), Verdict::NeedsRequests);
    Ok(match protection.of_bytes(&connection, approved)? {
        Judgement::Allowed => None,
        Judgement::Ask(ask) => Some(ask.provider),
    })
}

#[test]
fn somebody_is_asked_about_bytes_that_are_no_http_and_only_where_no_request_is_needed_to_tell() {
    let (asks, _) = compiled(&[custom("c", Some("opa"), vec![all()])], &["opa"]);
    assert_eq!(of_bytes(&asks, None), Ok(Some("opa".into())));
    assert_eq!(of_bytes(&asks, Some("opa")), Ok(None));
    assert_eq!(of_bytes(&asks, Some("other")), Ok(Some("opa".into())));

    let (refuses, _) = compiled(&[custom("c", Some("opa"), vec![on_path("/a")])], &["opa"]);
    for approved in [None, Some("opa")] {
        assert!(of_bytes(&refuses, approved).is_err(), "{approved:?}");
    }
}

#[test]
fn bytes_that_somebody_let_in_are_judged_by_the_other_policies() {
    for (policy, what) in [
        (shop("d", Deny, vec![all()]), "DENY"),
        (shop("d", Allow, vec![on_path("/a")]), "ALLOW"),
    ] {
        let (protection, _) = compiled(&[custom("c", Some("opa"), vec![all()]), policy], &["opa"]);
        let client = id("shop", "client");
        let connection = connection(Some(&client));
        assert!(protection.of_bytes(&connection, Some("opa")).is_err(), "{what}");
    }
}

#[test]
fn whom_a_port_concerns_is_told_by_ports_alone() {
    let on = |port| {
        Condition::Port(Values {
            any: vec![port],
            none: vec![],
        })
    };
    let when = PolicyRule {
        when: vec![on(6379)],
        ..PolicyRule::default()
    };
    for (rule, concerns) in [
        (all(), true),
        (on_path("/a"), true),
        (to(on(80)), false),
        (to(on(6379)), true),
        (when, true),
    ] {
        let (protection, _) = compiled(&[custom("c", Some("opa"), vec![rule.clone()])], &["opa"]);
        assert_eq!(protection.asking_about(6379).count() == 1, concerns, "{rule:?}");
    }
}

#[test]
fn nobody_is_asked_on_trial() {
    let (protection, _) = compiled(&[on_trial(custom("c", Some("opa"), vec![all()]))], &["opa"]);
    assert!(protection.is_none());
}
