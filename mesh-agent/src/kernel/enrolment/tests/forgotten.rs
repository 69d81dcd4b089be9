//! What becomes of pods whose facts are gone while they run.

use std::fs;

use tempfile::{NamedTempFile, TempDir};

use super::*;
use crate::kernel::placement::Learned;
use crate::kernel::placement::announced::{Announced, Announcement};

/// A pod that the CNI plugin announced, in a kubelet's tree.
struct Kubelets {
    _tree: TempDir,
    announced: Announced,
    pod: Arc<Workload>,
}

impl Kubelets {
    fn pod(netns: &NamedTempFile) -> (Self, Locator) {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("kubepods/pod0b6d")).unwrap();
        let mut pod = (*pod("0b6d", "/a", &["127.0.0.1"])).clone();
        pod.placement = None;
        let announcement = Announcement {
            sandbox: "1".to_owned(),
            netns: netns.path().into(),
            addrs: pod.addrs.clone(),
        };
        let mut locator = Locator::below(Some(tree.path())).unwrap();
        locator.announced.hear("0b6d", announcement);
        let announced = locator.announced.clone();
        let kubelets = Self {
            _tree: tree,
            announced,
            pod: Arc::new(pod),
        };
        (kubelets, locator)
    }
}

fn none_known(_: &WorkloadUid) -> bool {
    false
}

#[test]
fn a_pod_whose_facts_are_gone_is_refused_and_stays_hooked_until_it_is_gone_too() {
    let netns = NamedTempFile::new().unwrap();
    let (kubelets, locator) = Kubelets::pod(&netns);
    let Bench {
        kernel,
        host,
        enrolment,
    } = bench();
    let mut enrolment = enrolment.locating(locator);
    let wanted = [Arc::clone(&kubelets.pod)];
    enrolment.reconcile_among(&wanted, &none_known);
    let name = host.netns("0b6d");

    let forgotten = "test/0b6d refused: its object is gone and it runs still";
    assert_eq!(said(&enrolment.reconcile_among(&[], &none_known)), [forgotten]);
    assert_eq!(said(&enrolment.reconcile_among(&[], &none_known)), [""; 0]);
    assert_eq!(host.uids(), [""; 0]);
    assert!(kernel.hooked(name).is_some() && kernel.is_refusing(name));
    let shown = enrolment.status().pods;
    let shown: Vec<_> = shown
        .iter()
        .map(|pod| (pod.wanted, pod.is_served(), pod.learned))
        .collect();
    assert_eq!(shown, [(false, false, Some(Learned::Announced))]);

    assert_eq!(
        said(&enrolment.reconcile_among(&wanted, &|_| true)),
        ["test/0b6d enrolled"]
    );
    assert_eq!(host.uids(), ["0b6d"]);
    assert_eq!(
        said(&enrolment.reconcile_among(&[], &|_| true)),
        ["test/0b6d un-enrolled"]
    );
    assert_eq!(kernel.hooked(name), None);
}

#[test]
fn a_pod_that_was_declared_to_be_somewhere_goes_with_its_facts() {
    let mut enrolment = bench().enrolment;
    enrolment.reconcile_among(&[pod("a", "/a", &["127.0.0.1"])], &none_known);
    assert_eq!(
        said(&enrolment.reconcile_among(&[], &none_known)),
        ["test/a un-enrolled"]
    );
}

#[test]
fn the_next_agent_leaves_the_hooks_of_a_forgotten_pod_until_its_namespace_is_gone() {
    let netns = NamedTempFile::new().unwrap();
    let (kubelets, locator) = Kubelets::pod(&netns);
    let Bench {
        kernel, enrolment, ..
    } = bench();
    let mut enrolment = enrolment.locating(locator);
    enrolment.reconcile_among(&[Arc::clone(&kubelets.pod)], &|_| true);
    drop(enrolment);
    kernel.restart();
    let mut next = Enrolment::new(Box::new(kernel.clone()), Arc::<Host>::default(), PodPorts::ANY);
    next.recall(kubelets.announced);
    next.reconcile_among(&[], &none_known);
    assert_eq!(kernel.orphans().unwrap().len(), 1);
    drop(netns);
    next.forget_gone();
    next.reconcile_among(&[], &none_known);
    assert_eq!(kernel.orphans().unwrap(), []);
}
