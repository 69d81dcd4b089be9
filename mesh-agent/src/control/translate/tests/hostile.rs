//! No input ends the agent: whatever a manifest holds, it becomes facts or rejections.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{SHOP, translate};
use crate::control::manifest::{Document, documents};
use crate::control::translate::rate_limit::tests::WHOLE as LIMITS;
use crate::snapshot::{Snapshot, SnapshotSettings};

/// Values that are often where they should not be.
fn arbitrary_leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9./:*-]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "Service", "STRICT", "10.0.0.1", "::", "0", "65536", "-1", "/", "http", "TCP", "1s"
        ])
        .prop_map(Value::from),
    ]
}

/// A field name that one of the kinds reads.
fn arbitrary_field() -> impl Strategy<Value = String> {
    let known = vec![
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "uid",
        "spec",
        "status",
        "podIPs",
        "ip",
        "ports",
        "port",
        "protocol",
        "clusterIPs",
        "endpoints",
        "addresses",
        "conditions",
        "addressType",
        "parentRefs",
        "kind",
        "group",
        "rules",
        "matches",
        "path",
        "value",
        "type",
        "headers",
        "backendRefs",
        "weight",
        "timeouts",
        "request",
        "mtls",
        "mode",
        "selector",
        "matchLabels",
        "portLevelMtls",
        "host",
        "trafficPolicy",
        "loadBalancer",
        "simple",
        "containers",
        "ownerReferences",
        "creationTimestamp",
        "items",
        "limits",
        "key",
        "local",
        "requests",
        "unit",
    ];
    prop_oneof![9 => prop::sample::select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

fn arbitrary_value() -> impl Strategy<Value = Value> {
    arbitrary_leaf().prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((arbitrary_field(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn arbitrary_object() -> impl Strategy<Value = Value> {
    let types = vec![
        ("v1", "Namespace"),
        ("v1", "Pod"),
        ("v1", "Service"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("security.istio.io/v1", "PeerAuthentication"),
        ("networking.istio.io/v1", "DestinationRule"),
        ("gateway.networking.x-k8s.io/v1alpha1", "XBackendTrafficPolicy"),
        ("mesh-agent.dev/v1alpha1", "RateLimitPolicy"),
    ];
    (
        prop::sample::select(types),
        arbitrary_value(),
        arbitrary_value(),
        "[a-c]",
    )
        .prop_map(|((api_version, kind), spec, rest, name)| {
            let mut object =
                json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec});
            if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
                for (field, value) in rest {
                    object.entry(field).or_insert(value);
                }
            }
            object
        })
}

/// Replaces the value at a place that `choice` decides by `with`.
fn damage(value: &mut Value, choice: &mut u64, with: &Value) {
    let below = match value {
        Value::Array(items) if !items.is_empty() => {
            let index = usize::try_from(*choice).unwrap_or(0) % items.len();
            items.get_mut(index)
        }
        Value::Object(fields) if !fields.is_empty() => {
            let index = usize::try_from(*choice).unwrap_or(0) % fields.len();
            fields.values_mut().nth(index)
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => None,
    };
    match below {
        Some(below) if !choice.is_multiple_of(5) => {
            *choice /= 3;
            damage(below, choice, with);
        }
        _ => *value = with.clone(),
    }
}

fn build(documents: Vec<Document>) {
    let reading = translate(documents, "cluster.local");
    let settings = SnapshotSettings {
        node: "node-a".into(),
        root_namespace: "mesh-system".into(),
        trust_domains: std::sync::Arc::new([]),
    };
    let (snapshot, _) = Snapshot::build(&reading.facts, &settings, None);
    assert_eq!(snapshot.version(), 1);
}

fn document(value: Value) -> Document {
    Document {
        origin: "f".into(),
        place: "document 1".to_owned(),
        value,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_objects_become_facts_or_rejections(objects in prop::collection::vec(arbitrary_object(), 1..6)) {
        build(objects.into_iter().map(document).collect());
    }

    #[test]
    fn a_damaged_shop_becomes_facts_or_rejections(which in 0..4_usize, mut choice: u64, with in arbitrary_value()) {
        let (mut shop, _) = documents("f", SHOP, false);
        damage(&mut shop[which].value, &mut choice, &with);
        build(shop);
    }

    #[test]
    fn a_damaged_rate_limit_becomes_facts_or_rejections(mut choice: u64, with in arbitrary_value()) {
        let (mut limits, _) = documents("f", LIMITS, false);
        damage(&mut limits[0].value, &mut choice, &with);
        build(limits);
    }

    #[test]
    fn any_text_becomes_documents_or_rejections(text in "[-:\\[\\]{},&*!|>'\"%@`a \n#<?]{0,60}", is_json: bool) {
        build(documents("f", &text, is_json).0);
    }

    #[test]
    fn any_value_survives_yaml_and_json(value in arbitrary_value()) {
        let json = serde_json::to_string(&json!({ "v": value })).unwrap();
        for is_json in [true, false] {
            let (documents, rejections) = documents("f", &json, is_json);
            prop_assert!(documents.len() + rejections.len() == 1, "{:?} {:?}", documents, rejections);
        }
    }
}
