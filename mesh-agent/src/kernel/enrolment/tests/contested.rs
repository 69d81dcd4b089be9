//! Two pods want the same address, namespace or cgroup.

use super::*;

/// What the facts say first, and then; what is reported then; who is served then, and whether the elder is refused.
struct Case<'a> {
    name: &'a str,
    first: &'a [&'a Arc<Workload>],
    then: &'a [&'a Arc<Workload>],
    reports: &'a [&'a str],
    served: &'a str,
    is_old_refused: bool,
}

#[test]
fn who_has_a_contested_address_is_decided_and_the_other_is_refused_and_never_unhooked() {
    let (elder, younger) = (
        dated(&pod("old", "/old", &["127.0.0.1"]), 1),
        dated(&pod("new", "/new", &["127.0.0.1"]), 2),
    );
    let moved = dated(&pod("old", "/old", &["127.0.0.2"]), 1);
    let refused = "test/old refused: pod test/new has its address 127.0.0.1 now: all its connections are refused until \
                   one of the two is gone or has another address";
    let (unhooked, old_joined, new_joined) =
        ("test/old un-enrolled", "test/old enrolled", "test/new enrolled");
    let case = |name, first, then, reports, served, is_old_refused| Case {
        name,
        first,
        then,
        reports,
        served,
        is_old_refused,
    };
    for case in [
        case(
            "the elder is gone",
            &[&elder],
            &[&younger],
            &[unhooked, new_joined],
            "new",
            false,
        ),
        case(
            "both are there",
            &[&elder],
            &[&elder, &younger],
            &[new_joined, refused],
            "new",
            true,
        ),
        case(
            "both are there at the start, in either order",
            &[],
            &[&younger, &elder],
            &[old_joined, new_joined, refused],
            "new",
            true,
        ),
        case(
            "the younger went again",
            &[&elder, &younger],
            &[&elder],
            &["test/new un-enrolled", old_joined],
            "old",
            false,
        ),
        case(
            "the elder went at last",
            &[&elder, &younger],
            &[&younger],
            &[unhooked],
            "new",
            false,
        ),
        case(
            "the elder has another address",
            &[&elder, &younger],
            &[&moved, &younger],
            &[unhooked, old_joined],
            "new old",
            false,
        ),
    ] {
        is_decided(&case);
    }
}

fn is_decided(case: &Case<'_>) {
    let Bench {
        kernel,
        host,
        mut enrolment,
    } = bench();
    let name = case.name;
    let wanted = |pods: &[&Arc<Workload>]| pods.iter().map(|pod| Arc::clone(pod)).collect::<Vec<_>>();
    enrolment.reconcile(&wanted(case.first));
    assert_eq!(
        said(&enrolment.reconcile(&wanted(case.then))),
        case.reports,
        "{name}"
    );
    assert_eq!(said(&enrolment.reconcile(&wanted(case.then))), [""; 0], "{name}");
    assert_eq!(host.uids().join(" "), case.served, "{name}");
    let old = kernel.cookie_of("/old");
    let is_refusing = old.is_some_and(|old| kernel.is_refusing(old) && kernel.hooked(old).is_some());
    assert_eq!(is_refusing, case.is_old_refused, "{name}");
    let status = enrolment.status();
    let old = status.pods.iter().find(|pod| pod.pod == "old");
    let is_shown = old.is_some_and(|old| old.present && !old.is_served());
    assert_eq!(is_shown, case.is_old_refused, "{name}");
}

fn dated(pod: &Arc<Workload>, second: u64) -> Arc<Workload> {
    let mut pod = Workload::clone(pod);
    let mut meta = (*pod.meta).clone();
    meta.created = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    pod.meta = Arc::new(meta);
    Arc::new(pod)
}

#[test]
fn connections_of_a_pod_that_is_refused_are_cut_and_those_of_one_that_leaves_are_not() {
    let Bench {
        host, mut enrolment, ..
    } = bench();
    let (old, new) = (
        pod("old", "/old", &["127.0.0.1"]),
        pod("new", "/new", &["127.0.0.1"]),
    );
    enrolment.reconcile(&[Arc::clone(&old)]);
    enrolment.reconcile(&[old, new]);
    enrolment.reconcile(&[]);
    assert_eq!(
        *host.reasons.lock().unwrap(),
        [
            ("old".to_owned(), Leaving::Gone),
            ("new".to_owned(), Leaving::Unwanted),
            ("old".to_owned(), Leaving::Unwanted)
        ]
    );
}

#[test]
fn two_pods_may_not_share_a_namespace_or_a_cgroup_and_the_first_stays_whole() {
    let first = pod("a", "/pods/a", &["127.0.0.1"]);
    let at = |netns: &str, cgroup: &str| {
        let mut pod = Workload::clone(&pod("b", netns, &["127.0.0.2"]));
        pod.placement = Some(
            Placement {
                netns: netns.into(),
                cgroup: cgroup.into(),
            }
            .into(),
        );
        Arc::new(pod)
    };
    for (second, says) in [
        (
            at("/pods/a", "/pods/b"),
            "shares its network namespace with pod test/a",
        ),
        (at("/netns/b", "/pods/a"), "its cgroup is that of pod test/a"),
        (
            at("/netns/b", "/pods/a/child"),
            "its cgroup is that of pod test/a",
        ),
        (at("/netns/b", "/pods"), "its cgroup is that of pod test/a"),
    ] {
        let Bench {
            kernel,
            host,
            mut enrolment,
        } = bench();
        let wanted = [Arc::clone(&first), second];
        let reports = said(&enrolment.reconcile(&wanted));
        let [joined, refused] = &reports[..] else {
            panic!("{reports:?}")
        };
        assert_eq!(joined, "test/a enrolled");
        assert!(
            refused.starts_with("test/b not enrolled: ") && refused.contains(says),
            "{refused}"
        );
        assert_eq!(said(&enrolment.reconcile(&wanted)), [""; 0]);
        assert_eq!(host.uids(), ["a"]);
        assert_eq!(kernel.entries().len(), 1);
    }
}
