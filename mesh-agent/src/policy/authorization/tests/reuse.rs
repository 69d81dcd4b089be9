//! What is taken over from one compilation to the next, and what that saves.

use std::time::{Duration, Instant};

use super::*;

fn after(
    policies: &[AuthorizationPolicy],
    pods: &[Workload],
    previous: Option<&Authorization>,
) -> Authorization {
    Authorization::compile(policies, ROOT, NOBODY, pods.iter(), |_| None, previous).0
}

fn labelled(name: &str, app: &str) -> Workload {
    let mut workload = pod("shop", name);
    workload.labels.insert("app".to_owned(), app.to_owned());
    workload
}

fn two_apps() -> (Vec<AuthorizationPolicy>, Vec<Workload>) {
    let policies = vec![
        selecting("web", shop("of-web", Deny, vec![all()])),
        selecting("cart", shop("of-cart", Allow, vec![])),
    ];
    (
        policies,
        vec![labelled("web-1", "web"), labelled("cart-1", "cart")],
    )
}

#[test]
fn what_did_not_change_is_the_same_protection() {
    let (policies, mut pods) = two_apps();
    let first = after(&policies, &pods, None);
    pods.insert(0, labelled("a-new-pod", "web"));
    let reordered: Vec<_> = policies.iter().rev().cloned().collect();
    let second = after(&reordered, &pods, Some(&first));
    for pod in &pods[1..] {
        assert!(Arc::ptr_eq(&first.of(pod), &second.of(pod)), "{}", pod.pod_name);
    }
    assert!(Arc::ptr_eq(&second.of(&pods[0]), &second.of(&pods[1])));
}

#[test]
fn a_change_is_in_force_for_those_it_concerns_and_leaves_the_others_alone() {
    let (policies, pods) = two_apps();
    let first = after(&policies, &pods, None);
    let mut changed = policies.clone();
    changed[0].rules.clear();
    // Others move up in the list, and stay what they are.
    let mut more = policies.clone();
    more.insert(0, selecting("web", shop("a", Deny, vec![])));
    let fewer = vec![policies[1].clone()];
    for (policies, refuses_web) in [(changed, false), (more, true), (fewer, false)] {
        let second = after(&policies, &pods, Some(&first));
        assert!(!Arc::ptr_eq(&first.of(&pods[0]), &second.of(&pods[0])));
        assert!(Arc::ptr_eq(&first.of(&pods[1]), &second.of(&pods[1])));
        let refused = second.of(&pods[0]).of_bytes(&connection(None), None).is_err();
        assert_eq!(refused, refuses_web, "{policies:?}");
    }
}

#[test]
fn what_a_namespace_shares_is_compiled_once_and_again_only_when_it_changes() {
    let (mut policies, mut pods) = two_apps();
    policies.push(shop("of-all", Allow, vec![from(of_client(exact("somebody")))]));
    pods.push(pod("elsewhere", "far-1"));
    let first = after(&policies, &pods, None);
    let [web, cart, far] = [0, 1, 2].map(|index| first.of(&pods[index]));
    assert!(Arc::ptr_eq(&web.shared, &cart.shared));
    assert!(!Arc::ptr_eq(&web.shared, &far.shared));

    policies[0].rules.clear();
    let second = after(&policies, &pods, Some(&first));
    assert!(Arc::ptr_eq(&web.shared, &second.of(&pods[0]).shared));
    assert!(!Arc::ptr_eq(&web.own, &second.of(&pods[0]).own));

    policies[2].rules.clear();
    let third = after(&policies, &pods, Some(&second));
    for index in [0, 1] {
        let (before, now) = (second.of(&pods[index]), third.of(&pods[index]));
        assert!(!Arc::ptr_eq(&before.shared, &now.shared));
        assert!(Arc::ptr_eq(&before.own, &now.own));
    }
    assert!(Arc::ptr_eq(&far, &third.of(&pods[2])));
}

#[test]
fn pods_behind_a_service_that_change_are_seen_although_no_policy_did() {
    let name = ServiceName::new("shop", "web");
    let policy = AuthorizationPolicy {
        target: PolicyTarget::Services(BTreeSet::from([name])),
        ..shop("p", Deny, vec![all()])
    };
    let pods = [labelled("web-1", "web")];
    let compile = |port: u16, previous: Option<&Authorization>| {
        let behind = |_: &ServiceName| Some(vec![(pods[0].uid.clone(), port)]);
        Authorization::compile(
            std::slice::from_ref(&policy),
            ROOT,
            NOBODY,
            pods.iter(),
            behind,
            previous,
        )
        .0
    };
    let first = compile(8080, None);
    let second = compile(9090, Some(&first));
    assert!(first.of(&pods[0]).of_bytes(&connection(None), None).is_err());
    assert!(second.of(&pods[0]).of_bytes(&connection(None), None).is_ok());
}

/// Prints what 10,000 policies cost: `cargo test --release -p mesh-agent --lib ten_thousand_policies_again -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn ten_thousand_policies_again() {
    let mut policies: Vec<_> = (0..10_000)
        .map(|index| {
            let client = exact(&format!("cluster.local/ns/ns-{}/sa/client-{index}", index % 100));
            let rule = PolicyRule {
                from: vec![vec![is(TextAttribute::Principal, client)]],
                to: vec![vec![is(TextAttribute::Path, exact("/info"))]],
                when: vec![],
            };
            let policy = shop(&format!("p-{index}"), Allow, vec![rule]);
            // A tenth concerns all pods of the namespace, the rest one of a thousand apps.
            match index % 10 {
                0 => policy,
                _ => selecting(&format!("app-{}", index % 1000), policy),
            }
        })
        .collect();
    let pods: Vec<_> = (0..100)
        .map(|index| labelled(&format!("pod-{index}"), &format!("app-{index}")))
        .collect();
    let best = |policies: &[AuthorizationPolicy], previous: Option<&Authorization>| {
        let took = (0..5).map(|_| {
            let began = Instant::now();
            let compiled = after(policies, &pods, previous);
            let took = began.elapsed();
            drop(compiled);
            took
        });
        took.min().unwrap_or(Duration::ZERO)
    };
    let first = after(&policies, &pods, None);
    let (anew, unchanged) = (best(&policies, None), best(&policies, Some(&first)));
    policies[5001].rules.clear();
    let of_one_app = best(&policies, Some(&first));
    policies[5000].rules.clear();
    let of_all = best(&policies, Some(&first));
    println!(
        "10,000 policies, 100 pods: anew {anew:?}, nothing changed {unchanged:?}, one app's {of_one_app:?}, everybody's {of_all:?}"
    );
}
