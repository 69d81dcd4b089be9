//! Facts that exclude one another, or refer to nothing, are named and settled.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn a_route_that_refers_to_nothing_is_named_by_field() {
    for (parent, backend, field, result) in [
        (parent("none"), ("web", 80), "spec.parentRefs[0].name", None),
        (parent("bare"), ("web", 80), "spec.parentRefs[0].name", None),
        (
            RouteParent {
                port: Some(9),
                ..parent("web")
            },
            ("web", 80),
            "spec.parentRefs[0].port",
            None,
        ),
        (
            RouteParent {
                section: Some("x".into()),
                ..parent("web")
            },
            ("web", 80),
            "spec.parentRefs[0].sectionName",
            None,
        ),
        (
            parent("web"),
            ("none", 80),
            "spec.rules[0].backendRefs[0].name",
            Some("invalid"),
        ),
        (
            parent("web"),
            ("web", 9),
            "spec.rules[0].backendRefs[0].port",
            Some("invalid"),
        ),
    ] {
        let mut facts = web();
        facts
            .services
            .push(service("bare", &[], AppProtocol::Http).into());
        facts.http_routes = vec![route("shop", "r", parent, backend)];
        let (snapshot, rejections) = build(&facts);
        assert_eq!(fields(&rejections), [("HTTPRoute shop/r", field)]);
        assert_eq!(routed(&snapshot, "shop").as_deref(), result, "{field}");
    }
}

#[test]
fn a_contradiction_is_settled_for_the_elder_whatever_the_order() {
    let mut facts = web();
    facts.services.push(
        Service {
            meta: meta("Service shop/late", 9),
            ..service("late", &["10.96.0.1"], AppProtocol::Http)
        }
        .into(),
    );
    facts.workloads.push(
        Workload {
            meta: meta("Pod shop/late", 9),
            ..pod_at("late", &["10.0.0.1"])
        }
        .into(),
    );
    for workload in facts.workloads.iter_mut().take(2) {
        workload.meta = meta(&workload.meta.object, 1);
    }
    for _ in 0..2 {
        facts.services.reverse();
        facts.workloads.reverse();
        let (snapshot, rejections) = build(&facts);
        assert_eq!(
            fields(&rejections),
            [
                ("Pod shop/late", "status.podIPs"),
                ("Service shop/late", "spec.clusterIPs")
            ]
        );
        assert_eq!(
            snapshot
                .workload_at("10.0.0.1".parse().unwrap())
                .unwrap()
                .pod_name
                .as_ref(),
            "web-1"
        );
        let Destination::Service(upstream) = snapshot.destination(&client(), "10.96.0.1:80".parse().unwrap())
        else {
            panic!()
        };
        assert_eq!(upstream.service.name.as_ref(), "web");
    }
}

#[test]
fn an_endpoint_is_used_only_if_the_pod_it_names_is_known_there() {
    for (uid, expected, is_rejected) in [
        (Some("shop/web-1"), true, false),
        (None, true, false),
        (Some("shop/web-2"), false, true),
        (Some("gone"), false, true),
    ] {
        let mut facts = web();
        facts.endpoints.truncate(1);
        facts.endpoints[0].workload = uid.map(WorkloadUid::new);
        let (snapshot, rejections) = build(&facts);
        assert_eq!(!usable(&snapshot, "web").is_empty(), expected, "{uid:?}");
        assert_eq!(!rejections.is_empty(), is_rejected, "{uid:?}");
    }
}

#[test]
fn endpoints_of_nothing_are_named_once_a_slice() {
    let mut facts = web();
    facts.endpoints.push(endpoint("none", "10.0.0.1:1", Ready));
    facts.endpoints.push(endpoint("none", "10.0.0.2:1", Ready));
    facts.endpoints.push(Endpoint {
        port_name: "typo".into(),
        ..endpoint("web", "10.0.0.2:1", Ready)
    });
    let (_, rejections) = build(&facts);
    assert_eq!(
        fields(&rejections),
        [
            ("EndpointSlice shop/none", "ports"),
            ("EndpointSlice shop/web", "ports")
        ]
    );
}

proptest! {
    #[test]
    fn whatever_the_facts_no_address_is_used_twice_and_the_build_is_repeatable(
        endpoints in prop::collection::vec((0..3_u8, 0..6_u8, 0..3_u8, prop::option::of(0..6_u8)), 0..40),
        pods in prop::collection::vec((0..6_u8, 0..6_u8, any::<bool>()), 0..8),
        vips in prop::collection::vec(0..3_u8, 0..4),
    ) {
        let mut facts = Facts::default();
        for (uid, addr, host_network) in pods {
            let mut workload = pod_at(&format!("p{uid}"), &[&format!("10.0.0.{addr}")]);
            workload.host_network = host_network;
            facts.workloads.push(workload.into());
        }
        for (n, vip) in vips.iter().enumerate() {
            facts.services.push(service(&format!("s{}", n % 3), &[&format!("10.96.0.{vip}")], AppProtocol::Http).into());
        }
        for (of, addr, condition, uid) in endpoints {
            let condition = [Ready, ServingTerminating, NotServing][usize::from(condition)];
            let mut endpoint = endpoint(&format!("s{of}"), &format!("10.0.0.{addr}:80"), condition);
            endpoint.workload = uid.map(|uid| WorkloadUid::new(&format!("shop/p{uid}")));
            facts.endpoints.push(endpoint);
        }
        // Only objects of two places may bear one name.
        for (n, workload) in facts.workloads.iter_mut().enumerate() {
            workload.meta = Arc::new(ObjectMeta { origin: format!("{n}").into(), ..(*workload.meta).clone() });
        }
        let (snapshot, rejections) = build(&facts);
        for upstream in snapshot.upstreams() {
            let addrs: BTreeSet<_> = upstream.endpoints().iter().map(|endpoint| endpoint.addr).collect();
            prop_assert_eq!(addrs.len(), upstream.endpoints().len());
        }
        facts.workloads.reverse();
        facts.endpoints.reverse();
        let (_, again) = build(&facts);
        prop_assert_eq!(rejections, again);
    }
}
