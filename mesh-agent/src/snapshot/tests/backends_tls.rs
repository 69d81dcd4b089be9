//! Which policy says what TLS the applications behind a port speak.

use super::*;
use crate::mesh::backend_tls::{BackendTls, BackendTlsPolicy, BackendTlsTarget, TrustedRoots, WrittenTls};
use crate::mesh::export::Export;
use crate::mesh::traffic::{DestinationRule, HostPattern, WrittenPolicy};

fn tls(name: &str) -> Arc<BackendTls> {
    Arc::new(BackendTls {
        roots: TrustedRoots::System,
        name: Some(name.into()),
        ..BackendTls::impossible()
    })
}

fn policy(name: &str, age: u64, service: &str, section: Option<&str>) -> BackendTlsPolicy {
    BackendTlsPolicy {
        meta: meta(&format!("BackendTLSPolicy shop/{name}"), age),
        targets: vec![BackendTlsTarget {
            field: "spec.targetRefs[0]".into(),
            service: ServiceName::new("shop", service),
            section: section.map(Into::into),
        }],
        tls: tls(name),
    }
}

/// The name that the application behind `web` is asked for, by a client of the Service and by the agent next to it.
fn asked(facts: &Facts) -> (Option<String>, Option<String>) {
    let (snapshot, _) = build(facts);
    let upstream = snapshot
        .upstream(&client(), &ServiceName::new("shop", "web"), 80)
        .unwrap();
    let workload = snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap();
    let name = |tls: Option<&Arc<BackendTls>>| tls.and_then(|tls| tls.name.as_deref().map(str::to_owned));
    (
        name(upstream.tls()),
        name(snapshot.inbound(workload, 8080).tls.as_ref()),
    )
}

#[test]
fn the_port_goes_before_the_service_the_elder_before_the_younger_and_a_rule_comes_last() {
    let rule = DestinationRule {
        meta: meta("DestinationRule shop/rule", 0),
        namespace: "shop".into(),
        host: HostPattern::All,
        policy: WrittenPolicy {
            tls: Some(WrittenTls::Begun(Arc::new(BackendTls {
                name: None,
                ..BackendTls::clone(&tls("any"))
            }))),
            ..WrittenPolicy::default()
        },
        ports: Vec::new(),
        subsets: Vec::new(),
        export: Export::Everybody,
        clients: None,
    };
    let whole = |name, age| policy(name, age, "web", None);
    let of_port = |name, age| policy(name, age, "web", Some("main"));
    for (policies, rules, expected) in [
        (vec![], vec![], None),
        (vec![], vec![rule.clone()], Some("web.shop.svc.cluster.local")),
        (
            vec![whole("young", 5), whole("old", 1)],
            vec![rule.clone()],
            Some("old"),
        ),
        (vec![whole("old", 5), of_port("port", 1)], vec![], Some("port")),
        (vec![policy("other", 5, "web", Some("gone"))], vec![], None),
    ] {
        let facts = Facts {
            backend_tls_policies: policies,
            destination_rules: rules,
            ..web()
        };
        let expected = expected.map(str::to_owned);
        assert_eq!(asked(&facts), (expected.clone(), expected));
    }
}

#[test]
fn who_is_not_in_force_is_told_so() {
    let policies = vec![
        policy("old", 1, "web", None),
        policy("young", 5, "web", None),
        policy("stray", 1, "nobody", None),
        policy("port", 1, "web", Some("gone")),
    ];
    let (_, mut rejections) = build(&Facts {
        backend_tls_policies: policies,
        ..web()
    });
    rejections.sort();
    assert_eq!(
        fields(&rejections),
        [
            ("BackendTLSPolicy shop/port", "spec.targetRefs[0].sectionName"),
            ("BackendTLSPolicy shop/stray", "spec.targetRefs[0].name"),
            ("BackendTLSPolicy shop/young", "spec.targetRefs[0].name"),
        ]
    );
}

#[test]
fn bytes_for_such_a_backend_never_go_past_the_agent() {
    for is_wrapped in [false, true] {
        let mut facts = web();
        facts.services[0].traffic = ServiceTraffic::default();
        if is_wrapped {
            facts.backend_tls_policies = vec![policy("p", 1, "web", None)];
        }
        let (snapshot, _) = build(&facts);
        let upstream = snapshot
            .upstream(&client(), &ServiceName::new("shop", "web"), 80)
            .unwrap();
        assert_eq!(upstream.open_to_kernel(true).is_some(), !is_wrapped);
    }
}
