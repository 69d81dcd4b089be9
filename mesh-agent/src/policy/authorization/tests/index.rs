//! What the index of rules promises: the answers of asking all of them, in less time.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::policy::authorization::asked::Content;
use crate::policy::authorization::matcher::Doubt;
use crate::policy::authorization::rules::{Both, Entry, Rules};

/// Prints what a decision costs; a machine that is busy must not fail it.
#[test]
fn ten_thousand_policies_are_asked() {
    let policies: Vec<_> = (0..10_000)
        .map(|index| {
            let principal = format!("cluster.local/ns/ns-{}/sa/client-{index}", index % 100);
            let rule = PolicyRule {
                from: vec![vec![of_client(exact(&principal))]],
                to: vec![vec![path("/info")]],
                when: vec![],
            };
            shop(
                &format!("p-{index}"),
                if index % 2 == 0 { Allow } else { Deny },
                vec![rule],
            )
        })
        .collect();
    let began = Instant::now();
    let protection = protect(&policies);
    let compiled_in = began.elapsed();
    let (allowed, denied, stranger) = (id("ns-42", "client-42"), id("ns-43", "client-43"), id("a", "b"));
    let headers = HeaderMap::new();
    let asked = request("GET", "/info", &headers);
    let rounds = 1000;
    let began = Instant::now();
    for _ in 0..rounds {
        assert!(
            protection
                .of_request(&connection(Some(&allowed)), &asked, None)
                .is_ok()
        );
        assert!(
            protection
                .of_request(&connection(Some(&denied)), &asked, None)
                .is_err()
        );
        assert!(
            protection
                .of_request(&connection(Some(&stranger)), &asked, None)
                .is_err()
        );
    }
    let each = began.elapsed() / (3 * rounds);
    println!("10,000 policies: compiled in {compiled_in:?}, {each:?} a decision");
}

fn any_text() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        "(a|b|cluster.local/ns/a/sa/a|cluster.local/ns/b/sa/a|a/a|a/b|/a|/b)".prop_map(|text| exact(&text)),
        "(a|cluster.local/ns/a|/)".prop_map(|text| TextMatch::Prefix(text.into())),
        "(a|/sa/b)".prop_map(|text| TextMatch::Suffix(text.into())),
        Just(TextMatch::Present),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let attribute = prop_oneof![
        3 => Just(TextAttribute::Principal),
        3 => Just(TextAttribute::Namespace),
        3 => Just(TextAttribute::ServiceAccount),
        1 => Just(TextAttribute::TrustDomain),
        2 => Just(TextAttribute::Path),
    ];
    let lists = prop::array::uniform2(prop::collection::vec(any_text(), 0..3));
    prop_oneof![
        8 => (attribute, lists).prop_map(|(of, [any, none])| Condition::Text { of, values: Values { any, none } }),
        1 => Just(Condition::Port(Values { any: vec![80], none: vec![] })),
        1 => Just(Condition::Unknowable),
    ]
}

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let conditions = || prop::collection::vec(any_condition(), 0..3);
    let alternatives = move || prop::collection::vec(conditions(), 0..3);
    (alternatives(), alternatives(), conditions()).prop_map(|(from, to, when)| PolicyRule { from, to, when })
}

proptest! {
    #[test]
    fn the_index_finds_what_asking_all_rules_finds(
        policies in prop::collection::vec((any::<bool>(), prop::collection::vec(any_rule(), 0..4)), 0..6),
        peer in prop::option::of(("(a|b)", "(a|b)")),
        asked_path in prop::option::of("/(a|b|c)"),
        port in prop_oneof![Just(80_u16), Just(81)],
        ports in prop::option::of(prop::collection::btree_set(80_u16..83, 0..2)),
        fails in any::<bool>(),
    ) {
        let [mut rules, mut shared, mut own] = <[Rules; 3]>::default();
        for (index, (is_own, declared)) in policies.into_iter().enumerate() {
            let policy = Arc::new(shop(&format!("p{index}"), Allow, declared));
            rules.add(&policy, ports.as_ref());
            let layer = if is_own { &mut own } else { &mut shared };
            layer.add(&policy, ports.as_ref());
        }
        let peer = peer.map(|(namespace, account)| id(&namespace, &account));
        let connection = Connection::new(peer.as_ref(), [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), port);
        let headers = HeaderMap::new();
        let request = asked_path.as_ref().map(|path| request("GET", path, &headers));
        let content = request.as_ref().map_or(Content::Pending, Content::Http);
        let doubt = if fails { Doubt::Fails } else { Doubt::Holds };
        let place = |entry: Option<&Entry>| entry.map(|entry| (Arc::clone(&entry.policy), entry.rule));
        let (fast, naive) = (rules.find(&connection, content, doubt), rules.find_naively(&connection, content, doubt));
        prop_assert_eq!(place(fast.holds), place(naive.holds));
        // Once a rule holds, what might hold is of no use to anybody.
        if naive.holds.is_none() {
            prop_assert_eq!(place(fast.might), place(naive.might));
        }
        // What a namespace shares and what is a pod's own are one list to who asks.
        let both = Both([&shared, &own]);
        let layered = both.find(&connection, content, doubt);
        prop_assert_eq!(place(layered.holds), place(fast.holds));
        if naive.holds.is_none() {
            prop_assert_eq!(place(layered.might), place(fast.might));
        }
        prop_assert_eq!((both.are_none(), both.act_on(port)), (rules.are_none(), rules.act_on(port)));
    }
}

proptest! {
    #[test]
    fn a_rule_that_does_not_hold_has_something_unmet_and_one_that_holds_nothing(
        rule in any_rule(),
        peer in prop::option::of(("(a|b)", "(a|b)")),
        asked_path in prop::option::of("/(a|b|c)"),
        is_allow in any::<bool>(),
    ) {
        let action = if is_allow { Allow } else { Deny };
        let protection = protect(&[shop("p", action, vec![rule])]);
        let peer = peer.map(|(namespace, account)| id(&namespace, &account));
        let connection = connection(peer.as_ref());
        let headers = HeaderMap::new();
        let request = asked_path.as_ref().map(|path| request("GET", path, &headers));
        let decided = match &request {
            Some(request) => protection.of_request(&connection, request, None).map(drop),
            None => protection.of_bytes(&connection, None).map(drop),
        };
        let trials: Vec<_> = protection.trials(&connection, request.as_ref()).collect();
        let trial = &trials[0].rules[0];
        // One policy alone: it decides by whether it matches.
        prop_assert_eq!(decided.is_ok(), trial.matches == is_allow);
        if trial.unmet.is_empty() || request.is_some() {
            prop_assert_eq!(trial.matches, trial.unmet.is_empty());
        } else if trial.matches {
            // What only a request could tell is held against bytes.
            prop_assert!(!is_allow && trial.unmet.iter().any(|unmet| unmet.needs_request));
        }
    }
}

#[test]
fn a_pod_that_the_snapshot_does_not_count_as_local_is_protected_too() {
    let policies = [shop("p", Deny, vec![all()])];
    let (compiled, _) = Authorization::compile(&policies, ROOT, NOBODY, std::iter::empty(), |_| None, None);
    assert!(compiled.of(&web()).of_bytes(&connection(None), None).is_err());
}
