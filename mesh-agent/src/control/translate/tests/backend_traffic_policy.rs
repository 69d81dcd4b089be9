//! How many further attempts a Service may be asked for and what keeps its clients, as Gateway API writes it.

use std::time::Duration;

use super::read;
use crate::mesh::route::{SessionCarrier, SessionPersistence};
use crate::mesh::service::ServiceName;
use crate::mesh::traffic::{BackendTrafficPolicy, RetryConstraint};

/// The policy that was read, and the fields that were reported.
fn translated(spec: &str) -> (Option<BackendTrafficPolicy>, Vec<String>) {
    let mut reading = read(&format!(
        "{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy,
          metadata: {{name: budget, namespace: shop}}, spec: {{{spec}}}}}"
    ));
    let fields = reading.rejections.into_iter().map(|rejection| rejection.field);
    (reading.facts.backend_policies.pop(), fields.collect())
}

const WEB: &str = "targetRefs: [{group: '', kind: Service, name: web}]";

#[test]
fn a_budget_is_read_with_the_apis_defaults() {
    let (policy, reported) = translated(&format!("{WEB}, retryConstraint: {{}}"));
    let policy = policy.unwrap();
    assert_eq!(reported, Vec::<String>::new());
    assert_eq!(
        (policy.retries, policy.session),
        (Some(RetryConstraint::default()), None)
    );
    assert_eq!(policy.targets.len(), 1);
    assert_eq!(policy.targets[0].1, ServiceName::new("shop", "web"));
    let (policy, reported) = translated(&format!(
        "{WEB}, retryConstraint: {{budget: {{percent: 50, interval: 30s}}, minRetryRate: {{count: 1, interval: 1h}}}}"
    ));
    assert_eq!(reported, Vec::<String>::new());
    let expected = RetryConstraint {
        percent: 50,
        interval: Duration::from_secs(30),
        min_count: 1,
        min_interval: Duration::from_hours(1),
    };
    assert_eq!(policy.unwrap().retries, Some(expected));
}

#[test]
fn what_has_no_effect_is_reported_and_what_is_out_of_bounds_left_out() {
    let (policy, reported) = translated(&format!("{WEB}, retryConstraint: {{}}, hedging: {{}}"));
    assert!(policy.is_some());
    assert_eq!(reported, ["spec.hedging"]);
    let (policy, reported) = translated(WEB);
    assert_eq!((policy, reported.len()), (None, 0));
    let (policy, reported) = translated("targetRefs: [{kind: Gateway, name: g}], retryConstraint: {}");
    assert_eq!(policy.unwrap().targets, []);
    assert_eq!(reported, ["spec.targetRefs[0].kind"]);
    for (written, field) in [
        ("budget: {percent: 101}", "spec.retryConstraint.budget.percent"),
        ("budget: {interval: 2h}", "spec.retryConstraint.budget.interval"),
        ("budget: {interval: 10ms}", "spec.retryConstraint.budget.interval"),
        (
            "minRetryRate: {count: 0}",
            "spec.retryConstraint.minRetryRate.count",
        ),
        (
            "minRetryRate: {interval: soon}",
            "spec.retryConstraint.minRetryRate.interval",
        ),
    ] {
        let (policy, reported) = translated(&format!("{WEB}, retryConstraint: {{{written}}}"));
        assert_eq!((policy, reported), (None, vec![field.to_owned()]), "{written}");
    }
    let (policy, _) = translated(&format!("{WEB}, retryConstraint: {{budget: {{percentage: 20}}}}"));
    assert_eq!(policy, None);
}

#[test]
fn sessions_are_read_as_those_of_rules_are() {
    let header = SessionPersistence {
        carrier: SessionCarrier::Header(http::HeaderName::from_static("x-s")),
        lifetime: None,
    };
    let cookie = SessionPersistence {
        carrier: SessionCarrier::Cookie {
            name: Some("s".into()),
            is_permanent: true,
        },
        lifetime: Some(Duration::from_mins(1)),
    };
    let permanent = "sessionName: s, absoluteTimeout: 1m, cookieConfig: {lifetimeType: Permanent}";
    for (written, expected, fields) in [
        ("type: Header, sessionName: X-S", &header, None),
        (permanent, &cookie, None),
        (
            "type: Header, sessionName: x-s, idleTimeout: 1h",
            &header,
            Some("idleTimeout"),
        ),
    ] {
        let (policy, reported) = translated(&format!("{WEB}, sessionPersistence: {{{written}}}"));
        let policy = policy.unwrap();
        assert_eq!(
            (policy.retries, policy.session.as_ref()),
            (None, Some(expected)),
            "{written}"
        );
        let expected = fields.map(|field| format!("spec.sessionPersistence.{field}"));
        assert_eq!(reported, Vec::from_iter(expected), "{written}");
    }
    for (written, field) in [
        ("absoluteTimeout: 0s", "absoluteTimeout"),
        ("cookieConfig: {lifetimeType: Permanent}", "absoluteTimeout"),
        ("sessionName: 'a;b'", "sessionName"),
        ("type: Header, sessionName: cookie", "sessionName"),
    ] {
        let spec = format!("{WEB}, retryConstraint: {{}}, sessionPersistence: {{{written}}}");
        let expected = vec![format!("spec.sessionPersistence.{field}")];
        assert_eq!(translated(&spec), (None, expected), "{written}");
    }
}
