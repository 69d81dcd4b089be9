//! What a snapshot says of a connection before a byte of it is read.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::mesh::policy::authorization::{
    AuthorizationPolicy, Condition, PolicyAction, PolicyRule, PolicyTarget, TextAttribute, TextMatch, Values,
};
use crate::mesh::policy::{MtlsMode, PeerAuthentication};

pub(super) fn policy(action: PolicyAction, of: TextAttribute, text: &str) -> AuthorizationPolicy {
    let condition = Condition::Text {
        of,
        values: Values {
            any: vec![TextMatch::Exact(text.into())],
            none: vec![],
        },
    };
    AuthorizationPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        meta: meta("AuthorizationPolicy shop/p", 0),
        target: PolicyTarget::Selector(BTreeMap::new()),
        action,
        rules: vec![PolicyRule {
            when: vec![condition],
            ..PolicyRule::default()
        }],
        is_dry_run: false,
        provider: None,
    }
}

pub(super) fn on_trial(policy: AuthorizationPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy {
        is_dry_run: true,
        ..policy
    }
}

fn verdict(policy: AuthorizationPolicy) -> Verdict {
    verdict_under(MtlsMode::Permissive, policy)
}

fn verdict_under(mode: MtlsMode, policy: AuthorizationPolicy) -> Verdict {
    let facts = Facts {
        authorization_policies: vec![policy],
        peer_authentications: vec![PeerAuthentication {
            namespace: "shop".into(),
            name: "default".into(),
            meta: meta("PeerAuthentication shop/default", 0),
            selector: BTreeMap::new(),
            mode: Some(mode),
            port_modes: BTreeMap::new(),
        }],
        ..web()
    };
    let (snapshot, _) = build(&facts);
    let destination = Arc::clone(snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap());
    let source = SpiffeId::new("cluster.local", "shop", "client").unwrap();
    snapshot.l4_verdict(Some(&source), "10.0.0.9".parse().unwrap(), &destination, 8080)
}

#[test]
fn a_connection_is_allowed_denied_or_brought_before_the_agent() {
    let client = "cluster.local/ns/shop/sa/client";
    let principal = || TextAttribute::Principal;
    for (policy, is_allowed, needs_requests) in [
        (policy(PolicyAction::Allow, principal(), client), true, false),
        (policy(PolicyAction::Allow, principal(), "other"), false, false),
        (policy(PolicyAction::Deny, principal(), client), false, false),
        (policy(PolicyAction::Deny, TextAttribute::Path, "/a"), false, true),
        (policy(PolicyAction::Audit, principal(), client), false, true),
        (
            on_trial(policy(PolicyAction::Deny, principal(), client)),
            false,
            true,
        ),
    ] {
        let words = format!("{policy:?}");
        let verdict = verdict(policy);
        let found = (verdict == Verdict::Allowed, verdict == Verdict::NeedsRequests);
        assert_eq!(found, (is_allowed, needs_requests), "{words}");
    }
}

/// What goes past the agent is asked by this verdict too, so that the paths cannot differ.
#[test]
fn no_policy_sees_a_principal_where_mtls_is_switched_off() {
    let by_client = |action| {
        policy(
            action,
            TextAttribute::Principal,
            "cluster.local/ns/shop/sa/client",
        )
    };
    for (mode, allow, deny) in [
        (MtlsMode::Strict, true, false),
        (MtlsMode::Permissive, true, false),
        (MtlsMode::Disable, false, true),
    ] {
        let of = |action| verdict_under(mode, by_client(action)) == Verdict::Allowed;
        assert_eq!(
            (of(PolicyAction::Allow), of(PolicyAction::Deny)),
            (allow, deny),
            "{mode:?}"
        );
    }
}

#[test]
fn a_policy_for_a_service_protects_its_pods_however_they_are_dialled() {
    let of_service = |service: &str| AuthorizationPolicy {
        target: PolicyTarget::Services(BTreeSet::from([ServiceName::new("shop", service)])),
        ..policy(PolicyAction::Allow, TextAttribute::Principal, "other")
    };
    assert!(matches!(verdict(of_service("web")), Verdict::Denied(_)));
    assert_eq!(verdict(of_service("unknown")), Verdict::Allowed);
}
