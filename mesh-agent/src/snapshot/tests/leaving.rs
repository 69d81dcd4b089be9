//! Who is going away.

use super::*;

fn conditions(of_first: &[EndpointCondition]) -> Facts {
    let mut facts = web();
    facts.endpoints.remove(0);
    let of_first = of_first.iter();
    facts
        .endpoints
        .extend(of_first.map(|condition| endpoint("web", "10.0.0.1:8080", *condition)));
    facts
}

#[test]
fn an_endpoint_that_terminates_goes_away_unless_another_slice_calls_it_ready() {
    for (of_first, expected) in [
        (&[Ready][..], false),
        (&[ServingTerminating], true),
        // As kube-proxy does: what was begun with an endpoint that is not ready goes on.
        (&[NotServing], false),
        (&[ServingTerminating, Ready], false),
        (&[ServingTerminating, ServingTerminating], true),
    ] {
        let (snapshot, _) = build(&conditions(of_first));
        let addr = "10.0.0.1:8080".parse().unwrap();
        assert_eq!(snapshot.leaving().includes(None, addr), expected, "{of_first:?}");
        let uid = WorkloadUid::new("shop/web-1");
        assert_eq!(snapshot.is_leaving(&uid), expected, "{of_first:?}");
        assert!(!snapshot.is_leaving(&WorkloadUid::new("shop/web-2")));
    }
}

#[test]
fn a_pod_that_is_deleted_goes_away_on_all_ports_whatever_slices_say() {
    let mut facts = web();
    facts.workloads[1].is_terminating = true;
    let (snapshot, _) = build(&facts);
    let uid = WorkloadUid::new("shop/web-2");
    assert!(snapshot.is_leaving(&uid));
    let anywhere = "10.0.0.2:1".parse().unwrap();
    assert!(snapshot.leaving().includes(Some(&uid), anywhere));
    assert!(!snapshot.leaving().includes(None, anywhere));
    assert!(
        snapshot.is_leaving(&WorkloadUid::new("shop/web-3")),
        "who is not known is gone"
    );
}

#[test]
fn only_who_was_not_going_before_is_told_of() {
    let (first, _) = build(&conditions(&[ServingTerminating]));
    let mut facts = conditions(&[ServingTerminating]);
    facts.workloads[1].is_terminating = true;
    let (second, _) = build(&facts);
    let newly = second.leaving().since(first.leaving());
    assert_eq!(newly.addrs.len(), 0);
    assert_eq!(newly.pods, [WorkloadUid::new("shop/web-2")].into());
    assert!(first.leaving().since(first.leaving()).is_empty());
}
