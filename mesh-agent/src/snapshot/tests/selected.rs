//! Pods that stand behind a host since its ServiceEntry selects them, and what its servers must prove.

use std::collections::BTreeMap;

use super::traffic::rule;
use super::*;
use crate::mesh::backend_tls::{BackendTls, PeerName, TrustedRoots, WrittenTls};
use crate::mesh::pod_selector::PodSelector;
use crate::mesh::traffic::{HostPattern, WrittenPolicy};

fn labels(app: &str) -> BTreeMap<String, String> {
    [("app".to_owned(), app.to_owned())].into()
}

fn selected(name: &str, addr: &str) -> Workload {
    Workload {
        labels: labels("till").into(),
        ..placed(name, addr)
    }
}

/// The host `a.example.com` of `shop`, with these pods around it.
fn entry(workloads: Vec<Workload>) -> Facts {
    let mut service = service("a.example.com", &["192.0.2.1"], AppProtocol::Http);
    service.traffic.selects = Some(Arc::new(PodSelector {
        labels: labels("till"),
        targets: vec![("main".into(), 8080)],
    }));
    Facts {
        workloads: workloads.into_iter().map(Into::into).collect(),
        services: vec![service.into()],
        ..Facts::default()
    }
}

fn behind(facts: &Facts) -> Vec<String> {
    let (snapshot, rejections) = build(facts);
    assert_eq!(rejections, []);
    let name = ServiceName::new("shop", "a.example.com");
    let upstream = snapshot.upstream(&client(), &name, 80).unwrap();
    let endpoints = upstream.endpoints().iter();
    endpoints
        .map(|one| format!("{} {}", one.addr, one.workload.as_ref().unwrap().pod_name))
        .collect()
}

#[test]
fn pods_of_the_entrys_namespace_with_its_labels_stand_behind_its_hosts() {
    let stranger = Workload {
        namespace: "bank".into(),
        uid: WorkloadUid::new("bank/till"),
        ..selected("stranger", "10.0.0.9")
    };
    let two_addrs = Workload {
        addrs: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        ..selected("till-2", "10.0.0.2")
    };
    let facts = entry(vec![
        selected("till-1", "10.0.0.1"),
        two_addrs,
        placed("other", "10.0.0.3"),
        stranger,
    ]);
    assert_eq!(
        behind(&facts),
        [
            "10.0.0.1:8080 till-1",
            "10.0.0.2:8080 till-2",
            "[fd00::2]:8080 till-2"
        ]
    );
}

#[test]
fn pods_that_are_not_ready_are_left_out_and_those_that_end_serve_where_no_other_does() {
    let unready = Workload {
        is_ready: false,
        ..selected("unready", "10.0.0.1")
    };
    let ending = Workload {
        is_terminating: true,
        ..selected("ending", "10.0.0.2")
    };
    let ready = selected("ready", "10.0.0.3");
    for (workloads, expected) in [
        (
            vec![unready.clone(), ending.clone(), ready],
            vec!["10.0.0.3:8080 ready"],
        ),
        (vec![unready.clone(), ending], vec!["10.0.0.2:8080 ending"]),
        (vec![unready], vec![]),
    ] {
        assert_eq!(behind(&entry(workloads)), expected);
    }
}

#[test]
fn its_servers_prove_the_names_of_the_rule_else_those_of_the_entry() {
    let uri = |text: &str| PeerName::Uri(text.into());
    let begun = |names| WrittenPolicy {
        tls: Some(WrittenTls::Begun(Arc::new(BackendTls {
            roots: TrustedRoots::System,
            names,
            ..BackendTls::impossible()
        }))),
        ..WrittenPolicy::default()
    };
    for (of_rule, of_entry, expected) in [
        (vec![], vec![], vec![]),
        (vec![], vec![uri("spiffe://a/b")], vec![uri("spiffe://a/b")]),
        (
            vec![uri("spiffe://c/d")],
            vec![uri("spiffe://a/b")],
            vec![uri("spiffe://c/d")],
        ),
    ] {
        let mut facts = entry(Vec::new());
        facts.services[0].traffic.server_names = of_entry.into();
        facts.destination_rules = vec![rule("a", "shop", HostPattern::All, begun(of_rule))];
        let (snapshot, _) = build(&facts);
        let name = ServiceName::new("shop", "a.example.com");
        let upstream = snapshot.upstream(&client(), &name, 80).unwrap();
        assert_eq!(upstream.tls().unwrap().names, expected);
    }
}
