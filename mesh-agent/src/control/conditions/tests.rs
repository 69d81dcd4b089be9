//! From manifests to conditions, by the way that agents read them.

use serde_json::Value;

use super::*;
use crate::control::manifest::documents;
use crate::control::translate::translate;
use crate::snapshot::{Snapshot, SnapshotSettings};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: more, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: v2, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
";

/// The statuses of all objects of some manifests beside [`SERVICES`], by name.
fn statuses(manifests: &str) -> BTreeMap<String, Option<Status>> {
    let (documents, rejections) = documents("api", &format!("{SERVICES}{manifests}"), false);
    assert_eq!(rejections, []);
    let objects: Vec<Value> = documents.iter().map(|document| document.value.clone()).collect();
    let mut reading = translate(documents, "cluster.local");
    let settings = SnapshotSettings {
        node: "".into(),
        root_namespace: "mesh-system".into(),
        trust_domains: std::sync::Arc::new(["cluster.local".into()]),
    };
    let (_, contradictions) = Snapshot::build(&reading.facts, &settings, None);
    reading.rejections.extend(contradictions);
    reading.rejections.sort();
    reading.rejections.dedup();
    let seen = Seen::of(&reading);
    let text = |object: &Value, pointer: &str| {
        let found = object.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let named = objects.iter().map(|object| {
        let namespace = text(object, "/metadata/namespace");
        let slash = if namespace.is_empty() { "" } else { "/" };
        let name = format!(
            "{} {namespace}{slash}{}",
            text(object, "/kind"),
            text(object, "/metadata/name")
        );
        let status = seen.status(&name, object);
        (name, status)
    });
    named.collect()
}

fn shown(conditions: &[Condition]) -> Vec<(&str, &str, &str)> {
    let shown = |one| {
        let Condition {
            r#type,
            status,
            reason,
            ..
        }: &Condition = one;
        (r#type.as_str(), status.as_str(), reason.as_str())
    };
    conditions.iter().map(shown).collect()
}

const ACCEPTED: (&str, &str, &str) = ("Accepted", "True", "Accepted");
const RESOLVED: (&str, &str, &str) = ("ResolvedRefs", "True", "ResolvedRefs");
const PARTLY: (&str, &str, &str) = ("PartiallyInvalid", "True", "UnsupportedValue");
const NO_PARENT: (&str, &str, &str) = ("Accepted", "False", "NoMatchingParent");
const NO_BACKEND: (&str, &str, &str) = ("ResolvedRefs", "False", "BackendNotFound");
const NO_KIND: (&str, &str, &str) = ("ResolvedRefs", "False", "InvalidKind");
const UNSUPPORTED: (&str, &str, &str) = ("Accepted", "False", "UnsupportedValue");
const CONFLICTS: (&str, &str, &str) = ("Accepted", "False", "Conflicted");

/// The conditions of each parent or ancestor of the one object of a kind.
fn of_route(kind: &str, name: &str, spec: &str, more: &str) -> Vec<Entry> {
    let manifest = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n{more}"
    );
    let mut all = statuses(&manifest);
    match all.remove(&format!("{kind} shop/{name}")) {
        Some(Some(Status::Parents(entries) | Status::Ancestors(entries))) => entries,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reasons_follow_from_what_a_route_names_and_what_is_there() {
    let parent = "{group: '', kind: Service, name: web}";
    let backend = "{name: v2, port: 80}";
    let good = || format!("[{{backendRefs: [{backend}]}}]");
    let table = [
        (parent, good(), vec![ACCEPTED, RESOLVED]),
        (
            parent,
            "[{backendRefs: [{name: nobody, port: 80}]}]".to_owned(),
            vec![ACCEPTED, NO_BACKEND],
        ),
        (
            parent,
            "[{backendRefs: [{name: v2, port: 9}]}]".to_owned(),
            vec![ACCEPTED, NO_BACKEND],
        ),
        (
            parent,
            "[{backendRefs: [{group: example.net, kind: Other, name: v2}, {name: nobody, port: 80}]}]"
                .to_owned(),
            vec![ACCEPTED, NO_KIND],
        ),
        (
            parent,
            format!(
                "[{{backendRefs: [{backend}], filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: nobody, port: 80}}}}}}]}}]"
            ),
            vec![ACCEPTED, NO_BACKEND],
        ),
        (
            "{group: '', kind: Service, name: nobody}",
            good(),
            vec![NO_PARENT, RESOLVED],
        ),
        (
            "{group: '', kind: Service, name: web, port: 9}",
            good(),
            vec![NO_PARENT, RESOLVED],
        ),
        (
            "{group: '', kind: Service, name: web, sectionName: none}",
            good(),
            vec![NO_PARENT, RESOLVED],
        ),
        (
            "{group: '', kind: Service, name: headless}",
            good(),
            vec![NO_PARENT, RESOLVED],
        ),
        // One rule cannot be honoured, the other can.
        (
            parent,
            format!("[{{backendRefs: [{backend}], unheard: 1}}, {{backendRefs: [{backend}]}}]"),
            vec![ACCEPTED, RESOLVED, PARTLY],
        ),
        // None can.
        (
            parent,
            format!("[{{backendRefs: [{backend}], unheard: 1}}]"),
            vec![UNSUPPORTED, RESOLVED],
        ),
        // What is ignored harms nobody.
        (
            parent,
            format!("[{{backendRefs: [{backend}], timeouts: {{unheard: 1s}}}}]"),
            vec![ACCEPTED, RESOLVED, PARTLY],
        ),
        // The whole route is left out: nobody looked at its backends.
        (
            parent,
            "[{matches: [{path: {value: relative}}], backendRefs: [{name: nobody, port: 80}]}]".to_owned(),
            vec![UNSUPPORTED],
        ),
    ];
    for (parent, rules, expected) in table {
        let spec = format!("{{parentRefs: [{parent}], rules: {rules}}}");
        let entries = of_route("HTTPRoute", "r", &spec, "");
        assert_eq!(entries.len(), 1, "{spec}");
        assert_eq!(shown(&entries[0].conditions), expected, "{spec}");
        for condition in &entries[0].conditions {
            let is_good = condition.r#type != "PartiallyInvalid" && condition.status == "True";
            assert_eq!(condition.message.is_empty(), is_good, "{condition:?}");
        }
    }
}

#[test]
fn each_parent_that_is_a_service_has_an_entry_of_its_own_and_others_have_none() {
    let spec = "{parentRefs: [{name: gateway}, {group: '', kind: Service, name: nobody}, {group: '', kind: Service, name: web, port: 80}],
        rules: [{backendRefs: [{name: v2, port: 80}]}]}";
    let entries = of_route("HTTPRoute", "r", spec, "");
    let first = |entry: &Entry| {
        (
            entry.reference["name"].clone(),
            shown(&entry.conditions)[0].2.to_owned(),
        )
    };
    let all: Vec<_> = entries.iter().map(first).collect();
    assert_eq!(
        all,
        [
            ("nobody".into(), "NoMatchingParent".to_owned()),
            ("web".into(), "Accepted".to_owned())
        ]
    );
    assert_eq!(
        entries[1].reference["port"], 80,
        "the reference is the spec's own"
    );
    let of_gateway = "{parentRefs: [{name: gateway}], rules: []}";
    assert_eq!(of_route("HTTPRoute", "r", of_gateway, ""), []);
}

#[test]
fn a_route_that_another_kind_goes_before_is_conflicted_where_it_is() {
    let attached = |port: &str| {
        format!(
            "{{parentRefs: [{{group: '', kind: Service, name: web{port}}}], rules: [{{backendRefs: [{{name: v2, port: 80}}]}}]}}"
        )
    };
    let other = |port: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: g, namespace: shop}}\nspec: {}\n",
            attached(port)
        )
    };
    let reason = |own: &str, others: &str| {
        let entries = of_route("HTTPRoute", "r", &attached(own), &other(others));
        shown(&entries[0].conditions)
            .into_iter()
            .map(|(of, status, reason)| format!("{of} {status} {reason}"))
            .collect::<Vec<_>>()
    };
    let text = |(of, status, reason): (&str, &str, &str)| format!("{of} {status} {reason}");
    assert_eq!(reason("", ""), [CONFLICTS, RESOLVED].map(text));
    assert_eq!(reason(", port: 80", ""), [CONFLICTS, RESOLVED].map(text));
    assert_eq!(reason("", ", port: 80"), [ACCEPTED, RESOLVED, PARTLY].map(text));
    assert_eq!(reason(", port: 81", ", port: 80"), [ACCEPTED, RESOLVED].map(text));
}

#[test]
fn routes_of_connections_have_the_same_conditions() {
    let spec = |backend: &str| {
        format!(
            "{{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}"
        )
    };
    for kind in ["TCPRoute", "TLSRoute"] {
        let entries = of_route(kind, "r", &spec("v2"), "");
        assert_eq!(shown(&entries[0].conditions), [ACCEPTED, RESOLVED], "{kind}");
        let entries = of_route(kind, "r", &spec("nobody"), "");
        assert_eq!(shown(&entries[0].conditions), [ACCEPTED, NO_BACKEND], "{kind}");
    }
}

#[test]
fn a_backend_tls_policy_says_at_each_service_what_is_wrong() {
    let spec =
        |targets: &str, validation: &str| format!("{{targetRefs: [{targets}], validation: {validation}}}");
    let web = "{group: '', kind: Service, name: web}";
    let system = "{wellKnownCACertificates: System, hostname: web.shop}";
    let table = [
        (spec(web, system), vec![ACCEPTED, RESOLVED]),
        (
            spec("{group: '', kind: Service, name: nobody}", system),
            vec![("Accepted", "False", "TargetNotFound"), RESOLVED],
        ),
        (
            spec("{group: '', kind: Service, name: web, sectionName: none}", system),
            vec![("Accepted", "False", "TargetNotFound"), RESOLVED],
        ),
        (
            spec(
                web,
                "{caCertificateRefs: [{group: '', kind: ConfigMap, name: none}], hostname: web.shop}",
            ),
            vec![
                ("Accepted", "False", "NoValidCACertificate"),
                ("ResolvedRefs", "False", "InvalidCACertificateRef"),
            ],
        ),
        (
            spec(
                web,
                "{caCertificateRefs: [{group: '', kind: Secret, name: none}], hostname: web.shop}",
            ),
            vec![("Accepted", "False", "NoValidCACertificate"), NO_KIND],
        ),
        (
            spec(web, "{wellKnownCACertificates: System, hostname: 'no name'}"),
            vec![("Accepted", "False", "Invalid"), RESOLVED],
        ),
    ];
    for (spec, expected) in table {
        let entries = of_route("BackendTLSPolicy", "p", &spec, "");
        assert_eq!(shown(&entries[0].conditions), expected, "{spec}");
    }
    let elder = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: a, namespace: shop}}\nspec: {}\n",
        spec(web, system)
    );
    let entries = of_route("BackendTLSPolicy", "p", &spec(web, system), &elder);
    assert_eq!(shown(&entries[0].conditions), [CONFLICTS, RESOLVED]);
    assert_eq!(entries[0].reference["namespace"], "shop");
}

/// The conditions of one object whose status is a list of them.
fn plain(manifest: &str, name: &str) -> Option<Vec<String>> {
    match statuses(manifest).remove(name)? {
        Some(Status::Conditions { conditions, .. }) => Some(
            shown(&conditions)
                .into_iter()
                .map(|(of, status, reason)| format!("{of} {status} {reason}"))
                .collect(),
        ),
        None => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mesh_and_a_class_of_ours_are_accepted_with_sorted_features_and_others_are_not_touched() {
    let class = ["Accepted True Accepted", "Accepted False InvalidParameters"].map(|accepted| vec![accepted]);
    let mesh = [
        vec!["Accepted True Accepted", "Programmed True Programmed"],
        vec!["Accepted False InvalidParameters", "Programmed False Invalid"],
    ];
    for (version, kind, [accepted, refused]) in [
        ("gateway.networking.x-k8s.io/v1alpha1", "XMesh", mesh),
        ("gateway.networking.k8s.io/v1", "GatewayClass", class),
    ] {
        let manifest = |spec: &str| {
            format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: m}}\nspec: {{{spec}}}\n")
        };
        let name = format!("{kind} m");
        let ours = format!("controllerName: {CONTROLLER}");
        let said = plain(&manifest(&ours), &name).unwrap();
        assert_eq!(said, accepted);
        let with_parameters = format!("{ours}, parametersRef: {{group: '', kind: ConfigMap, name: x}}");
        let said = plain(&manifest(&with_parameters), &name).unwrap();
        assert_eq!(said, refused);
        assert_eq!(plain(&manifest("controllerName: example.net/other"), &name), None);
    }
    let features = mesh::FEATURES;
    assert!(
        features.is_sorted() && features.contains(&"MeshConsumerRoute"),
        "{features:?}"
    );
}

#[test]
fn objects_of_istio_have_conditions_under_our_name_and_a_gateways_have_none() {
    let of = |version: &str, kind: &str, spec: &str| {
        let manifest = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: i, namespace: shop}}\nspec: {spec}\n"
        );
        plain(&manifest, &format!("{kind} shop/i")).unwrap()
    };
    let networking = "networking.istio.io/v1";
    let accepted = "mesh-agent.dev/Accepted True Accepted";
    let partly = "mesh-agent.dev/PartiallyInvalid True UnsupportedValue";
    let rule = |host: &str| format!("{{host: {host}, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}");
    let said = of(networking, "DestinationRule", &rule("web"));
    assert_eq!(said, [accepted]);
    let said = of(networking, "DestinationRule", &rule("nobody"));
    assert_eq!(said, [accepted, partly]);
    let said = of(networking, "DestinationRule", "{}");
    assert_eq!(said, ["mesh-agent.dev/Accepted False Invalid"]);
    // What cannot be read of a security policy refuses: it counts.
    let said = of("security.istio.io/v1", "AuthorizationPolicy", "{action: PERHAPS}");
    assert_eq!(said, [accepted, partly]);
    let gateway = "{hosts: [example.net], gateways: [edge], http: [{route: [{destination: {host: web}}]}]}";
    let said = of(networking, "VirtualService", gateway);
    assert_eq!(said, [""; 0]);
}

#[test]
fn a_rate_limit_policy_says_the_same_as_agents_show() {
    let manifest = |target: &str| {
        format!(
            "apiVersion: mesh-agent.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: l, namespace: shop}}\nspec: {{targetRefs: [{{kind: Service, name: {target}}}], limits: [{{local: {{requests: 1, unit: second}}}}]}}\n"
        )
    };
    let said = |target: &str| plain(&manifest(target), "RateLimitPolicy shop/l").unwrap();
    assert_eq!(said("web"), ["Accepted True Accepted"]);
    assert_eq!(said("nobody"), ["Accepted False TargetNotFound"]);
}
