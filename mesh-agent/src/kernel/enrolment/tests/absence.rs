//! Pods that are in the facts and not on the machine.

use super::*;

const A_MOMENT: Duration = Duration::from_secs(9);
const LONG: Duration = Duration::from_secs(11);

fn why_not(enrolment: &Enrolment) -> Option<String> {
    enrolment.status().pods.first().unwrap().why_not.clone()
}

#[test]
fn a_pod_that_is_not_there_yet_is_shown_at_once_and_reported_once_when_it_lasts() {
    let mut enrolment = bench().enrolment;
    let (unborn, begin) = ([pod("a", "/a", &[])], Instant::now());
    for waited in [Duration::ZERO, A_MOMENT] {
        let reports = enrolment.reconcile_at(&unborn, begin + waited);
        assert_eq!(said(&reports), [""; 0], "{waited:?}");
        assert_eq!(why_not(&enrolment), Some(KernelError::NoAddress.to_string()));
    }
    let missed = format!("test/a not there for 11 s: {}", KernelError::NoAddress);
    assert_eq!(
        said(&enrolment.reconcile_at(&unborn, begin + LONG)),
        [missed.as_str()]
    );
    assert_eq!(
        said(&enrolment.reconcile_at(&unborn, begin + LONG + LONG)),
        [""; 0]
    );
    let born = [pod("a", "/a", &["127.0.0.1"])];
    assert_eq!(
        said(&enrolment.reconcile_at(&born, begin + LONG + LONG)),
        ["test/a enrolled"]
    );
}

#[test]
fn a_pod_that_has_not_got_its_address_yet_is_waited_for() {
    let mut enrolment = bench().enrolment;
    // 192.0.2.1 is nobody's address (RFC 5737), so no listener opens on it.
    let (early, begin) = ([pod("a", "/a", &["192.0.2.1"])], Instant::now());
    assert_eq!(said(&enrolment.reconcile_at(&early, begin)), [""; 0]);
    let reports = enrolment.reconcile_at(&early, begin + LONG);
    assert!(
        said(&reports)[0].starts_with("test/a not there for 11 s: inside the pod: "),
        "{reports:?}"
    );
}

#[test]
fn what_is_wrong_with_a_pod_that_came_late_is_reported_at_once() {
    let Bench {
        kernel,
        mut enrolment,
        ..
    } = bench();
    let begin = Instant::now();
    assert_eq!(
        said(&enrolment.reconcile_at(&[pod("a", "/a", &[])], begin)),
        [""; 0]
    );
    kernel.refuse(Some("no room"));
    let born = [pod("a", "/a", &["127.0.0.1"])];
    assert_eq!(
        said(&enrolment.reconcile_at(&born, begin)),
        ["test/a not enrolled: no room"]
    );
}

#[test]
fn only_what_may_come_by_itself_is_waited_for() {
    let opened = |kind: io::ErrorKind| KernelError::Open {
        path: "/p".into(),
        source: kind.into(),
    };
    for (error, is_waited_for) in [
        (opened(io::ErrorKind::NotFound), true),
        (opened(io::ErrorKind::PermissionDenied), false),
        (KernelError::Listen(io::ErrorKind::AddrNotAvailable.into()), true),
        (KernelError::Listen(io::ErrorKind::PermissionDenied.into()), false),
        (KernelError::NoProcess("/p".into()), true),
        (KernelError::Vanished, true),
        (KernelError::NoPlacement, false),
    ] {
        assert_eq!(error.is_absence(), is_waited_for, "{error}");
    }
}
