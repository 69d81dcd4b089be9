//! Whom the locator believes.

use std::fs;
use std::sync::Arc;

use super::announced::Announcement;
use super::*;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::workload::fixture;

fn declared(origin: &str) -> Workload {
    let mut pod = fixture::pod("shop", "a");
    pod.meta = Arc::new(ObjectMeta {
        origin: origin.into(),
        ..ObjectMeta::default()
    });
    pod.placement = Some(
        Placement {
            netns: "/run/netns/a".into(),
            cgroup: "/sys/fs/cgroup/a".into(),
        }
        .into(),
    );
    pod
}

#[test]
fn annotations_of_an_api_server_count_only_where_that_was_asked_for() {
    for (origin, trusts, counts) in [
        ("/etc/manifests/a.yaml", false, true),
        ("/etc/manifests/a.yaml", true, true),
        ("api", false, false),
        ("api", true, true),
    ] {
        let mut locator = Locator::default().trusting_annotations(trusts);
        let located = locator.locate(&declared(origin));
        assert_eq!(located.is_ok(), counts, "{origin} {trusts}");
        if let Ok(located) = located {
            assert_eq!(located.learned(), Learned::Declared);
        }
    }
}

#[test]
fn an_announced_namespace_wins_over_a_process_and_needs_none() {
    let root = tempfile::tempdir().unwrap();
    let mut pod = fixture::pod("shop", "a");
    pod.uid = crate::mesh::workload::WorkloadUid::new("0b6d");
    let group = root.path().join("kubepods/besteffort/pod0b6d");
    fs::create_dir_all(&group).unwrap();
    let mut locator = Locator::below(Some(root.path())).unwrap();
    let nobody = locator.locate(&pod).unwrap_err();
    assert!(matches!(nobody, KernelError::NoProcess(_)), "{nobody}");
    fs::write(group.join("cgroup.procs"), "77\n").unwrap();
    let found = locator.locate(&pod).unwrap();
    assert_eq!(
        (found.learned(), found.placement().netns.to_str()),
        (Learned::Found, Some("/proc/77/ns/net"))
    );
    locator.announced.hear(
        "0b6d",
        Announcement {
            sandbox: "1".to_owned(),
            netns: "/run/netns/cni-1".into(),
            addrs: Vec::new(),
        },
    );
    let announced = locator.locate(&pod).unwrap();
    assert_eq!(announced.learned(), Learned::Announced);
    assert_eq!(
        announced.placement(),
        &Placement {
            netns: "/run/netns/cni-1".into(),
            cgroup: group
        }
    );
}

#[test]
fn a_static_pod_is_found_by_the_hash_that_kubelet_knows_it_by() {
    let root = tempfile::tempdir().unwrap();
    let hash = "5c6f1b0e6f8a4e0c9d3b2a1f00112233";
    fs::create_dir_all(root.path().join(format!("kubepods/burstable/pod{hash}/sandbox"))).unwrap();
    let mut pod = fixture::pod("shop", "static");
    pod.static_hash = Some(hash.into());
    let mut locator = Locator::below(Some(root.path())).unwrap();
    assert!(matches!(locator.locate(&pod), Err(KernelError::NoProcess(_))));
}

#[test]
fn nothing_is_looked_for_where_nobody_said_where() {
    let error = Locator::default().locate(&fixture::pod("shop", "a")).unwrap_err();
    assert!(matches!(error, KernelError::NoPlacement), "{error}");
}
