//! What a snapshot says of a connection before a byte of it is read.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::mesh::mesh_config::{MeshConfig, PathForm};
use crate::mesh::policy::authorization::{
    AuthorizationPolicy, Condition, PolicyAction, PolicyRule, PolicyTarget, TextAttribute, TextMatch, Values,
};
use crate::mesh::policy::external::{Authorizer, AuthorizerTarget, CheckProtocol, GrpcCheck, OnError};
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

/// A mesh whose provider `opa` speaks `protocol`.
pub(super) fn asking(protocol: CheckProtocol) -> MeshConfig {
    let authorizer = Authorizer {
        target: AuthorizerTarget::Addr("10.9.9.9".parse().unwrap()),
        port: 9000,
        timeout: Duration::from_secs(1),
        on_error: OnError::Allow,
        body: None,
        protocol,
    };
    MeshConfig {
        namespace: settings().root_namespace,
        meta: meta("ConfigMap istio", 0),
        authorizers: BTreeMap::from([("opa".into(), Arc::new(authorizer))]),
        path_form: PathForm::Base,
    }
}

/// Asks `opa` about all.
pub(super) fn custom() -> AuthorizationPolicy {
    AuthorizationPolicy {
        provider: Some("opa".into()),
        rules: vec![PolicyRule::default()],
        ..policy(PolicyAction::Custom, TextAttribute::Path, "/")
    }
}

#[test]
fn a_provider_that_cannot_be_asked_about_connections_is_named_where_there_are_some() {
    let http = || CheckProtocol::Http(Box::default());
    let on_port = |port| {
        let mut policy = custom();
        let values = Values {
            any: vec![port],
            none: vec![],
        };
        policy.rules[0].to = vec![vec![Condition::Port(values)]];
        policy
    };
    for (what, protocol, declared, policy, is_named) in [
        ("http", http(), AppProtocol::Tcp, custom(), true),
        (
            "grpc",
            CheckProtocol::Grpc(GrpcCheck::default()),
            AppProtocol::Tcp,
            custom(),
            false,
        ),
        ("requests", http(), AppProtocol::Http, custom(), false),
        ("unsaid", http(), AppProtocol::Detect, custom(), false),
        ("that port", http(), AppProtocol::Tcp, on_port(8080), true),
        ("another port", http(), AppProtocol::Tcp, on_port(81), false),
    ] {
        let mut facts = web();
        for workload in &mut facts.workloads {
            workload.node = settings().node;
        }
        facts.services[0].ports[0].protocol = declared;
        facts.authorization_policies = vec![policy];
        facts.mesh_configs = vec![asking(protocol)];
        let (_, rejections) = build(&facts);
        let named: Vec<_> = rejections
            .iter()
            .filter(|one| one.field == "spec.provider.name")
            .collect();
        assert_eq!(named.len(), usize::from(is_named), "{what}: {rejections:?}");
        if is_named {
            assert_eq!(named[0].object, "AuthorizationPolicy shop/p", "{what}");
            assert!(
                named[0].reason.contains("port 8080 of pod shop/web-1"),
                "{what}: {named:?}"
            );
        }
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
