//! Enrolment over the fake kernel.

mod absence;
mod adoption;
mod contested;
mod forgotten;

use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::capture::dns::DnsListeners;
use crate::kernel::fake::FakeKernel;
use crate::kernel::{Hook, Part};
use crate::mesh::exclusions::Exclusions;
use crate::mesh::workload::{FailMode, Placement, fixture};
use crate::pod::netns::NetnsCookie;

/// Keeps what joined, until it leaves.
#[derive(Default)]
pub(super) struct Host {
    pods: Mutex<Vec<(LocalPod, PodListeners)>>,
    reasons: Mutex<Vec<(String, Leaving)>>,
    refusal: Mutex<Option<String>>,
    pub(in crate::kernel::enrolment) resolved: Mutex<BTreeMap<WorkloadUid, DnsListeners>>,
}

impl Host {
    fn uids(&self) -> Vec<String> {
        self.pods
            .lock()
            .unwrap()
            .iter()
            .map(|(pod, _)| pod.workload.uid.to_string())
            .collect()
    }

    pub(in crate::kernel::enrolment) fn netns(&self, uid: &str) -> NetnsCookie {
        let pods = self.pods.lock().unwrap();
        pods.iter()
            .find(|(pod, _)| pod.workload.uid == WorkloadUid::new(uid))
            .unwrap()
            .0
            .netns
            .cookie()
    }
}

impl PodHost for Host {
    fn joined(&self, pod: LocalPod, listeners: PodListeners) -> io::Result<()> {
        if let Some(refusal) = self.refusal.lock().unwrap().as_ref() {
            return Err(io::Error::other(refusal.clone()));
        }
        self.pods.lock().unwrap().push((pod, listeners));
        Ok(())
    }

    fn resolve(&self, uid: &WorkloadUid, listeners: Option<DnsListeners>) {
        let mut resolved = self.resolved.lock().unwrap();
        match listeners {
            Some(listeners) => resolved.insert(uid.clone(), listeners),
            None => resolved.remove(uid),
        };
    }

    fn left(&self, uid: &WorkloadUid, why: Leaving) {
        self.resolve(uid, None);
        self.reasons.lock().unwrap().push((uid.to_string(), why));
        self.pods
            .lock()
            .unwrap()
            .retain(|(pod, _)| pod.workload.uid != *uid);
    }
}

pub(super) struct Bench {
    pub(super) kernel: FakeKernel,
    pub(super) host: Arc<Host>,
    pub(super) enrolment: Enrolment,
}

pub(super) fn bench() -> Bench {
    let (kernel, host) = (FakeKernel::default(), Arc::new(Host::default()));
    let enrolment = Enrolment::new(Box::new(kernel.clone()), Arc::<Host>::clone(&host), PodPorts::ANY);
    Bench {
        kernel,
        host,
        enrolment,
    }
}

pub(super) fn pod(uid: &str, netns: &str, addrs: &[&str]) -> Arc<Workload> {
    let mut pod = fixture::pod("test", uid);
    pod.uid = WorkloadUid::new(uid);
    pod.addrs = addrs.iter().map(|addr| addr.parse::<IpAddr>().unwrap()).collect();
    pod.placement = Some(
        Placement {
            netns: netns.into(),
            cgroup: netns.into(),
        }
        .into(),
    );
    Arc::new(pod)
}

pub(super) fn said(reports: &[Report]) -> Vec<String> {
    reports.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_wanted_joins_once_and_what_is_not_leaves() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let wanted = [pod("a", "/a", &["127.0.0.1"]), pod("b", "/b", &["127.0.0.2"])];
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/a enrolled", "test/b enrolled"]
    );
    assert_eq!(said(&enrolment.reconcile(&wanted)), [""; 0]);
    let of_b = host.netns("b");
    assert_eq!(said(&enrolment.reconcile(&wanted[..1])), ["test/b un-enrolled"]);
    assert_eq!(host.uids(), ["a"]);
    assert_eq!(kernel.hooked(of_b), None);
    assert!(kernel.hooked(host.netns("a")).is_some());
}

fn excluding(pod: &Arc<Workload>, ports: &[u16]) -> Arc<Workload> {
    Arc::new(Workload {
        exclusions: Exclusions {
            outbound_ports: ports.iter().copied().collect(),
            ..Exclusions::default()
        }
        .into(),
        ..Workload::clone(pod)
    })
}

#[test]
fn exclusions_follow_the_facts_without_a_new_enrolment() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let plain = pod("a", "/a", &["127.0.0.1"]);
    let said_of = |enrolment: &mut Enrolment, pod: &Arc<Workload>| {
        said(&enrolment.reconcile(std::slice::from_ref(pod)))
    };
    assert_eq!(said_of(&mut enrolment, &plain), ["test/a enrolled"]);
    let netns = host.netns("a");
    for ports in [&[25, 5432][..], &[25], &[]] {
        let pod = excluding(&plain, ports);
        assert_eq!(said_of(&mut enrolment, &pod), ["test/a lets something else past"]);
        assert_eq!(said_of(&mut enrolment, &pod), [""; 0]);
        assert_eq!(
            kernel.excepted(netns).map(|it| it.exclusions),
            Some(Exclusions::clone(&pod.exclusions))
        );
    }
    assert_eq!(said(&enrolment.reconcile(&[])), ["test/a un-enrolled"]);
    assert_eq!(kernel.excepted(netns), None);
}

#[test]
fn exclusions_that_fail_are_reported_once_and_tried_again() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let plain = pod("a", "/a", &["127.0.0.1"]);
    enrolment.reconcile(std::slice::from_ref(&plain));
    let wanted = [excluding(&plain, &[25])];
    kernel.refuse(Some("no room"));
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/a lets not past what it should: no room"]
    );
    assert_eq!(said(&enrolment.reconcile(&wanted)), [""; 0]);
    kernel.refuse(None);
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/a lets something else past"]
    );
    assert_eq!(
        kernel.excepted(host.netns("a")).map(|it| it.exclusions),
        Some(Exclusions::clone(&wanted[0].exclusions))
    );
}

#[test]
fn a_failure_is_undone_reported_once_and_tried_again() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let wanted = [pod("a", "/a", &["127.0.0.1"])];
    kernel.refuse(Some("no room"));
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/a not enrolled: no room"]
    );
    assert_eq!(said(&enrolment.reconcile(&wanted)), [""; 0]);
    assert_eq!(host.uids(), [""; 0]);
    let status = enrolment.status();
    let status = status.pods.first().unwrap();
    assert_eq!(
        (status.wanted, status.present, status.why_not.as_deref()),
        (true, false, Some("no room"))
    );
    kernel.refuse(Some("no memory"));
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/a not enrolled: no memory"]
    );
    kernel.refuse(None);
    assert_eq!(said(&enrolment.reconcile(&wanted)), ["test/a enrolled"]);
    assert!(enrolment.status().pods.first().unwrap().present);
}

#[test]
fn one_pods_failure_does_not_touch_another() {
    let Bench {
        host, mut enrolment, ..
    } = bench();
    let mut nowhere = (*pod("nowhere", "/n", &["127.0.0.3"])).clone();
    nowhere.placement = None;
    // 192.0.2.1 is nobody's address (RFC 5737), so no listener opens on it.
    let unborn = [
        pod("x", "/x", &[]),
        pod("y", "/y", &["192.0.2.1"]),
        Arc::new(nowhere),
    ];
    let wanted: Vec<_> = unborn
        .into_iter()
        .chain([pod("a", "/a", &["127.0.0.1"])])
        .collect();
    let reports = enrolment.reconcile(&wanted);
    let nowhere = KernelError::NoPlacement;
    assert_eq!(
        said(&reports),
        [
            "test/a enrolled".to_owned(),
            format!("test/nowhere not enrolled: {nowhere}"),
        ]
    );
    assert_eq!(host.uids(), ["a"]);
    assert_eq!(
        enrolment
            .status()
            .pods
            .iter()
            .filter(|pod| pod.why_not.is_some())
            .count(),
        3
    );
}

#[test]
fn a_pod_that_cannot_be_served_is_not_hooked_and_is_tried_again() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let wanted = [pod("a", "/a", &["127.0.0.1"])];
    *host.refusal.lock().unwrap() = Some("no descriptors".to_owned());
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/a not enrolled: inside the pod: no descriptors"]
    );
    assert_eq!(kernel.entries(), []);
    let why_not = enrolment.status().pods.first().unwrap().why_not.clone();
    assert_eq!(why_not.as_deref(), Some("inside the pod: no descriptors"));
    *host.refusal.lock().unwrap() = None;
    assert_eq!(said(&enrolment.reconcile(&wanted)), ["test/a enrolled"]);
}

#[test]
fn a_pod_that_the_kernel_refuses_is_not_served_either() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    kernel.refuse(Some("no room"));
    enrolment.reconcile(&[pod("a", "/a", &["127.0.0.1"])]);
    assert_eq!(host.uids(), [""; 0]);
}

#[test]
fn what_somebody_changed_of_the_exceptions_is_reported_for_the_pod() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let wanted = [pod("a", "/a", &["127.0.0.1"]), pod("b", "/b", &["127.0.0.2"])];
    enrolment.reconcile(&wanted);
    kernel.tamper(host.netns("b"), "EXCLUDED_PORTS");
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/b repaired: EXCLUDED_PORTS"]
    );
    assert_eq!(said(&enrolment.reconcile(&wanted)), [""; 0]);
}

#[test]
fn changed_addresses_enrol_a_pod_anew_and_changed_labels_do_not() {
    let Bench { mut enrolment, .. } = bench();
    let mut pod_a = (*pod("a", "/a", &["127.0.0.1"])).clone();
    enrolment.reconcile(&[Arc::new(pod_a.clone())]);
    pod_a.labels.insert("version".into(), "v2".into());
    assert_eq!(said(&enrolment.reconcile(&[Arc::new(pod_a.clone())])), [""; 0]);
    pod_a.addrs.push("127.0.0.2".parse().unwrap());
    assert_eq!(
        said(&enrolment.reconcile(&[Arc::new(pod_a)])),
        ["test/a un-enrolled", "test/a enrolled"]
    );
}

#[test]
fn a_hook_that_somebody_took_away_is_linked_again_and_reported_once() {
    let Bench {
        kernel,
        mut enrolment,
        ..
    } = bench();
    let wanted = [pod("a", "/a", &["127.0.0.1"])];
    enrolment.reconcile(&wanted);
    kernel.refuse(Some("no room"));
    kernel.take_away(&[Part::Hook(Hook::Connect4), Part::Entry("PODS")]);
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/a not repaired: no room"]
    );
    assert_eq!(said(&enrolment.reconcile(&wanted)), [""; 0]);
    let why_not = enrolment.status().pods.first().unwrap().why_not.clone();
    assert_eq!(why_not.as_deref(), Some("no room"));
    kernel.refuse(None);
    assert_eq!(
        said(&enrolment.reconcile(&wanted)),
        ["test/a repaired: connect4 PODS"]
    );
    assert_eq!(said(&enrolment.reconcile(&wanted)), [""; 0]);
    assert_eq!(enrolment.status().pods.first().unwrap().why_not, None);
}

#[test]
fn a_changed_fail_mode_is_told_to_the_hooks_and_disturbs_nobody() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let mut pod_a = (*pod("a", "/a", &["127.0.0.1"])).clone();
    enrolment.reconcile(&[Arc::new(pod_a.clone())]);
    assert_eq!(kernel.fail_mode(host.netns("a")), Some(FailMode::Closed));
    pod_a.fail_mode = FailMode::Open;
    assert_eq!(said(&enrolment.reconcile(&[Arc::new(pod_a)])), [""; 0]);
    assert_eq!(kernel.fail_mode(host.netns("a")), Some(FailMode::Open));
}
