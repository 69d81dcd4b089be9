//! What one agent leaves hooked and the next one makes of it.

use super::*;

#[test]
fn dropped_it_serves_nobody_and_leaves_every_pod_hooked() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    enrolment.reconcile(&[pod("a", "/a", &["127.0.0.1"])]);
    let netns = host.netns("a");
    drop(enrolment);
    assert_eq!((kernel.hooked(netns).is_some(), host.uids().len()), (true, 0));
}

#[test]
fn the_next_agent_adopts_who_is_wanted_and_unhooks_who_is_not() {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let (stays, goes) = (
        pod("stays", "/s", &["127.0.0.1"]),
        pod("goes", "/g", &["127.0.0.2"]),
    );
    enrolment.reconcile(&[Arc::clone(&stays), goes]);
    drop(enrolment);
    kernel.restart();
    let next: Arc<Host> = Arc::default();
    let mut enrolment = Enrolment::new(Box::new(kernel.clone()), Arc::<Host>::clone(&next), PodPorts::ANY);
    assert_eq!(kernel.orphans().unwrap().len(), 2);
    assert_eq!(said(&enrolment.reconcile(&[stays])), ["test/stays enrolled"]);
    assert_eq!(kernel.orphans().unwrap(), []);
    assert!(kernel.hooked(next.netns("stays")).is_some());
    assert_eq!(host.uids(), [""; 0]);
}

#[test]
fn what_is_wanted_and_cannot_join_keeps_the_hooks_of_the_last_agent() {
    let Bench {
        kernel,
        mut enrolment,
        ..
    } = bench();
    let wanted = [pod("a", "/a", &["127.0.0.1"])];
    enrolment.reconcile(&wanted);
    drop(enrolment);
    kernel.restart();
    kernel.refuse(Some("not yet"));
    let mut enrolment = Enrolment::new(Box::new(kernel.clone()), Arc::<Host>::default(), PodPorts::ANY);
    enrolment.reconcile(&wanted);
    assert_eq!(kernel.orphans().unwrap().len(), 1);
    enrolment.reconcile(&[]);
    assert_eq!(kernel.orphans().unwrap(), []);
}
