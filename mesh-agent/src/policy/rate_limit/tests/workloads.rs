//! Which limits a workload has, what they count, and what a change leaves of them.

use std::collections::BTreeSet;

use super::*;
use crate::mesh::policy::external::AuthorizerTarget;
use crate::mesh::route::ValueMatch;
use crate::mesh::workload::fixture::pod;

fn global(descriptors: Vec<Vec<DescriptorEntry>>) -> Arc<GlobalLimit> {
    Arc::new(GlobalLimit {
        target: AuthorizerTarget::Service(ServiceName::new("shop", "limiter")),
        port: 8081,
        domain: "shop".into(),
        descriptors,
        timeout: Duration::from_millis(20),
        fails_open: true,
    })
}

#[test]
fn a_policy_limits_its_namespace_one_of_the_root_namespace_all() {
    let policies = [("shop", true), ("mesh-system", true), ("other", false)];
    for (namespace, acts) in policies {
        let one = policy(namespace, "p", vec![limit(local(1, 1), vec![])]);
        let cart = pod("shop", "cart");
        let (compiled, _) =
            RateLimits::compile(&[one], "mesh-system", std::iter::once(&cart), |_| None, None);
        assert_eq!(compiled.of(&cart).is_some(), acts, "{namespace}");
    }
}

#[test]
fn a_policy_with_a_target_limits_the_ports_behind_it_and_an_unknown_one_is_named() {
    let target = |service: &str| RateLimitPolicy {
        target: PolicyTarget::Services(BTreeSet::from([ServiceName::new("shop", service)])),
        ..policy("shop", service, vec![limit(local(1, 1), vec![])])
    };
    let (cart, pay) = (pod("shop", "cart"), pod("shop", "pay"));
    let pods = |service: &ServiceName| {
        let known = *service == ServiceName::new("shop", "cart");
        known.then(|| vec![(cart.uid.clone(), 8080)])
    };
    let (compiled, rejections) = RateLimits::compile(
        &[target("cart"), target("nothing")],
        "mesh-system",
        [&cart, &pay].into_iter(),
        pods,
        None,
    );
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].field, "spec.targetRefs");
    assert!(compiled.of(&pay).is_none());
    let limits = compiled.of(&cart).unwrap();
    let (request, now) = (Request::new("/"), Instant::now());
    assert_eq!(passing(&limits, &request, 3, now), 1);
    let elsewhere = Asked {
        port: 9090,
        ..request.asked()
    };
    assert_eq!(limits.count(&elsewhere, now).exceeded, None);
}

#[test]
fn a_pod_on_its_way_out_is_counted_in_the_same_buckets() {
    let one = policy("shop", "p", vec![limit(local(1, 1), vec![])]);
    let (cart, gone) = (pod("shop", "cart"), pod("shop", "gone"));
    let (compiled, _) = RateLimits::compile(&[one], "mesh-system", std::iter::once(&cart), |_| None, None);
    let (request, now) = (Request::new("/"), Instant::now());
    assert!(request.passes(&compiled.of(&cart).unwrap(), now));
    assert!(!request.passes(&compiled.of(&gone).unwrap(), now));
}

#[test]
fn a_match_says_what_is_counted() {
    let header = |value| {
        let name = HeaderName::from_static("x-tier");
        LimitMatch {
            headers: vec![(name, value)],
            ..LimitMatch::default()
        }
    };
    let free = Request::new("/a/b").with("x-tier", "free");
    for (of, counts) in [
        (LimitMatch::default(), true),
        (below("/"), true),
        (below("/a"), true),
        (below("/a/"), true),
        (below("/a/b"), true),
        (below("/a/b/c"), false),
        (below("/a/bc"), false),
        (
            LimitMatch {
                path: Some(LimitPath::Exact("/a".into())),
                ..LimitMatch::default()
            },
            false,
        ),
        (
            LimitMatch {
                path: Some(LimitPath::Exact("/a/b".into())),
                ..LimitMatch::default()
            },
            true,
        ),
        (
            LimitMatch {
                method: Some("POST".into()),
                ..below("/a")
            },
            false,
        ),
        (
            LimitMatch {
                method: Some("GET".into()),
                ..below("/a")
            },
            true,
        ),
        (header(ValueMatch::Exact("free".into())), true),
        (header(ValueMatch::Exact("gold".into())), false),
        (header(ValueMatch::Present), true),
    ] {
        let one = RateLimit {
            of: of.clone(),
            ..limit(local(1, 1), vec![])
        };
        let (_, limits) = limits(&[policy("shop", "p", vec![one])], None);
        let passes = passing(&limits, &free, 2, Instant::now());
        assert_eq!(passes == 1, counts, "{of:?}");
    }
}

#[test]
fn a_path_counts_however_it_may_be_read() {
    let one = RateLimit {
        of: below("/login"),
        ..limit(local(1, 1), vec![])
    };
    let (_, limits) = limits(&[policy("shop", "p", vec![one])], None);
    let request = Request::new("//login");
    let asked = || Asked {
        other_readings: vec!["/login".into()],
        ..request.asked()
    };
    let now = Instant::now();
    assert_eq!(limits.count(&asked(), now).exceeded, None);
    assert!(limits.count(&asked(), now).exceeded.is_some());
}

#[test]
fn a_request_that_one_limit_refuses_costs_no_token_of_another() {
    let generous = limit(local(1, 5), vec![]);
    let mean = RateLimit {
        of: below("/dear"),
        ..limit(local(1, 1), vec![])
    };
    for limits_of_policy in [vec![generous.clone(), mean.clone()], vec![mean, generous]] {
        let (_, limits) = limits(&[policy("shop", "p", limits_of_policy)], None);
        let now = Instant::now();
        assert_eq!(passing(&limits, &Request::new("/dear"), 50, now), 1);
        assert_eq!(passing(&limits, &Request::new("/"), 50, now), 4);
    }
}

#[test]
fn a_limit_that_is_not_changed_goes_on_with_the_tokens_it_has() {
    let (all, admin) = (
        limit(local(1, 2), vec![]),
        RateLimit {
            of: below("/admin"),
            ..limit(local(1, 1), user())
        },
    );
    let first = policy("shop", "p", vec![all.clone(), admin.clone()]);
    let now = Instant::now();
    for (second, left) in [
        // The same, another order, and a change of the other limit.
        (vec![all.clone(), admin.clone()], 0),
        (vec![admin.clone(), all.clone()], 0),
        (vec![all.clone()], 0),
        // Other words: a new bucket.
        (vec![limit(local(1, 3), vec![])], 3),
        (vec![limit(local(2, 2), vec![])], 2),
        // A second one in the same words is another bucket, and the first still refuses.
        (vec![all.clone(), all.clone()], 0),
    ] {
        let (before, limits_before) = limits(std::slice::from_ref(&first), None);
        assert_eq!(passing(&limits_before, &Request::new("/"), 9, now), 2);
        let (_, limits_after) = limits(&[policy("shop", "p", second.clone())], Some(&before));
        let passed = passing(&limits_after, &Request::new("/"), 9, now);
        assert_eq!(passed, left, "{second:?}");
    }
    let (before, limits_before) = limits(&[first], None);
    assert_eq!(passing(&limits_before, &Request::new("/"), 9, now), 2);
    let (_, limits_after) = limits(&[policy("shop", "renamed", vec![all])], Some(&before));
    assert_eq!(passing(&limits_after, &Request::new("/"), 9, now), 2);
}

#[test]
fn a_policy_on_trial_counts_and_refuses_nothing() {
    let trial = RateLimitPolicy {
        is_dry_run: true,
        ..policy("shop", "p", vec![limit(local(1, 1), vec![])])
    };
    let (_, limits) = limits(&[trial], None);
    let (request, now) = (Request::new("/"), Instant::now());
    for expected in [Some(false), Some(true)] {
        let counted = limits.count(&request.asked(), now);
        assert_eq!((counted.exceeded, counted.trial), (None, expected));
    }
}

#[test]
fn a_service_is_told_what_the_request_has_and_not_asked_where_that_is_nothing() {
    let entry = |key: &str, value| DescriptorEntry {
        key: key.into(),
        value,
    };
    let fixed = || entry("generic_key", DescriptorValue::Fixed("all".into()));
    let of = |part| entry("k", DescriptorValue::Of(part));
    let header = || of(KeyPart::Header(HeaderName::from_static("x-user")));
    let both = vec![
        vec![fixed(), header()],
        vec![of(KeyPart::Source)],
        vec![of(KeyPart::Path)],
    ];
    let one = RateLimit {
        local: None,
        global: Some(global(both)),
        ..limit(local(1, 1), vec![])
    };
    let only_user = RateLimit {
        global: Some(global(vec![vec![header()]])),
        ..one.clone()
    };
    let (_, limits) = limits(&[policy("shop", "p", vec![one, only_user])], None);
    let told = |request: &Request| -> Vec<Vec<Vec<(String, String)>>> {
        let counted = limits.count(&request.asked(), Instant::now());
        let text = |quota: Quota| {
            let descriptors = quota.descriptors.into_iter();
            let text = descriptors.map(|entries| {
                let entries = entries.into_iter();
                entries.map(|(key, value)| (key.to_string(), value)).collect()
            });
            text.collect()
        };
        counted.ask.into_iter().map(text).collect()
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        told(&Request::of("alice")),
        [
            vec![
                vec![pair("generic_key", "all"), pair("k", "alice")],
                vec![pair("k", "/")]
            ],
            vec![vec![pair("k", "alice")]]
        ]
    );
    assert_eq!(
        told(&Request::from("web")),
        [vec![
            vec![pair("k", "spiffe://cluster.local/ns/shop/sa/web")],
            vec![pair("k", "/")]
        ]]
    );
}
