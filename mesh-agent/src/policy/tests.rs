//! What a PeerAuthentication table promises.

use std::time::{Duration, SystemTime};

use super::*;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::workload::fixture::pod;

use MtlsMode::{Disable, Permissive, Strict};

fn policy(namespace: &str, name: &str, age: u64, mode: Option<MtlsMode>) -> PeerAuthentication {
    PeerAuthentication {
        namespace: namespace.into(),
        name: name.into(),
        meta: Arc::new(ObjectMeta {
            origin: "test".into(),
            object: format!("PeerAuthentication {namespace}/{name}").into(),
            created: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(age)),
        }),
        selector: BTreeMap::new(),
        mode,
        port_modes: BTreeMap::new(),
    }
}

fn selecting(app: &str, policy: PeerAuthentication) -> PeerAuthentication {
    PeerAuthentication {
        selector: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        ..policy
    }
}

fn web() -> Workload {
    let mut workload = pod("shop", "web-1");
    workload.labels.insert("app".to_owned(), "web".to_owned());
    workload
}

fn mode(policies: &[PeerAuthentication]) -> MtlsMode {
    MtlsPolicy::compile(policies, "root", &[web()]).0.mode(&web(), 80)
}

#[test]
fn the_most_specific_policy_that_says_something_decides() {
    let mesh = |mode| policy("root", "default", 1, mode);
    let namespace = |mode| policy("shop", "default", 2, mode);
    let workload = |mode| selecting("web", policy("shop", "web", 3, mode));
    let port = |port, mode, of_port| PeerAuthentication {
        port_modes: BTreeMap::from([(port, of_port)]),
        ..workload(mode)
    };
    for (what, policies, expected) in [
        ("nothing", vec![], Permissive),
        ("mesh", vec![mesh(Some(Strict))], Strict),
        (
            "namespace over mesh",
            vec![mesh(Some(Strict)), namespace(Some(Permissive))],
            Permissive,
        ),
        (
            "unset namespace inherits",
            vec![mesh(Some(Strict)), namespace(None)],
            Strict,
        ),
        (
            "workload over namespace",
            vec![namespace(Some(Strict)), workload(Some(Permissive))],
            Permissive,
        ),
        (
            "unset workload inherits",
            vec![namespace(Some(Strict)), workload(None)],
            Strict,
        ),
        (
            "port over workload",
            vec![port(80, Some(Strict), Some(Permissive))],
            Permissive,
        ),
        (
            "other port",
            vec![port(81, Some(Strict), Some(Permissive))],
            Strict,
        ),
        (
            "switched off for the port",
            vec![port(80, Some(Strict), Some(Disable))],
            Disable,
        ),
        (
            "a stricter workload in a mesh that is switched off",
            vec![mesh(Some(Disable)), workload(Some(Strict))],
            Strict,
        ),
        ("unset port inherits", vec![port(80, Some(Strict), None)], Strict),
        (
            "another namespace",
            vec![policy("bank", "default", 1, Some(Strict))],
            Permissive,
        ),
        (
            "another app",
            vec![selecting("db", policy("shop", "db", 1, Some(Strict)))],
            Permissive,
        ),
        (
            "selector in the root namespace",
            vec![selecting("web", policy("root", "w", 1, Some(Strict)))],
            Permissive,
        ),
    ] {
        assert_eq!(mode(&policies), expected, "{what}");
    }
}

#[test]
fn policies_see_nobody_where_mtls_is_switched_off_and_only_there() {
    let client = SpiffeId::new("cluster.local", "shop", "client").unwrap();
    for (mode, is_seen) in [(Strict, true), (Permissive, true), (Disable, false)] {
        let policies = [policy("shop", "default", 1, Some(mode))];
        let (compiled, _) = MtlsPolicy::compile(&policies, "root", &[]);
        let seen = compiled.proven(Some(&client), &web(), 80);
        assert_eq!(seen.is_some(), is_seen, "{mode:?}");
        assert_eq!(compiled.proven(None, &web(), 80), None, "{mode:?}");
    }
}

#[test]
fn the_root_namespace_has_its_own_pods() {
    let policies = [policy("root", "default", 1, Some(Strict))];
    let (compiled, _) = MtlsPolicy::compile(&policies, "root", &[]);
    assert_eq!(compiled.mode(&pod("root", "agent"), 80), Strict);
}

#[test]
fn the_elder_of_two_for_a_namespace_wins_and_the_younger_is_named() {
    let policies = [
        policy("shop", "young", 9, Some(Permissive)),
        policy("shop", "old", 1, Some(Strict)),
    ];
    let (compiled, rejections) = MtlsPolicy::compile(&policies, "root", &[web()]);
    assert_eq!(compiled.mode(&web(), 80), Strict);
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].object, "PeerAuthentication shop/young");
    assert_eq!(rejections[0].field, "spec.selector");
}

#[test]
fn the_elder_of_two_for_a_workload_wins_and_the_younger_is_named() {
    let policies = [
        selecting("web", policy("shop", "young", 9, Some(Permissive))),
        selecting("web", policy("shop", "old", 1, Some(Strict))),
    ];
    let (compiled, rejections) = MtlsPolicy::compile(&policies, "root", &[web()]);
    assert_eq!(compiled.mode(&web(), 80), Strict);
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].object, "PeerAuthentication shop/young");
    assert!(
        MtlsPolicy::compile(&policies, "root", &[]).1.is_empty(),
        "no pod is selected twice"
    );
}
