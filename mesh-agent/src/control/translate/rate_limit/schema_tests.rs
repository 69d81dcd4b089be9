//! The schema that an API server checks says the same as the translation.

use serde_json::{Map, Value};

use super::tests::{WHOLE, WRONG, read, wrong_policy};
use crate::control::conditions::{ObjectConditions, of_rate_limits};
use crate::control::manifest::documents;

use crate::mesh::facts::Rejection;

const CRD: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/crds/ratelimitpolicies.yaml"
));

fn value(text: &str) -> Value {
    let (mut documents, rejections) = documents("f", text, false);
    assert_eq!(rejections, []);
    assert_eq!(documents.len(), 1);
    documents.remove(0).value
}

/// What of `OpenAPI` v3 the schema uses; anything else fails.
fn check(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = schema.as_object().unwrap();
    for (keyword, says) in schema {
        let holds = match keyword.as_str() {
            "type" => is_of_type(says.as_str().unwrap(), value),
            "enum" => says.as_array().unwrap().contains(value),
            "minimum" => value.as_i64() >= says.as_i64(),
            "maximum" => value.as_i64() <= says.as_i64(),
            "minItems" => value.as_array().map(Vec::len) >= size(says),
            "maxItems" => value.as_array().map(Vec::len) <= size(says),
            "minLength" => value.as_str().map(str::len) >= size(says),
            "maxLength" => value.as_str().map(str::len) <= size(says),
            "required" => {
                let names = says.as_array().unwrap();
                names
                    .iter()
                    .all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "description" | "default" => true,
            "items" => {
                for (index, item) in value.as_array().unwrap().iter().enumerate() {
                    check(says, item, &format!("{at}[{index}]"))?;
                }
                true
            }
            "properties" => {
                properties(says.as_object().unwrap(), value, at)?;
                true
            }
            other => panic!("{at}: the schema says {other}"),
        };
        if !holds {
            return Err(format!("{at}: {keyword}"));
        }
    }
    Ok(())
}

fn properties(known: &Map<String, Value>, value: &Value, at: &str) -> Result<(), String> {
    for (name, field) in value.as_object().unwrap() {
        let at = format!("{at}.{name}");
        let schema = known.get(name).ok_or_else(|| format!("{at}: unknown"))?;
        // `metadata` is the API server's.
        if at != ".metadata" {
            check(schema, field, &at)?;
        }
    }
    Ok(())
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        other => panic!("type {other}"),
    }
}

fn size(says: &Value) -> Option<usize> {
    says.as_u64().and_then(|size| usize::try_from(size).ok())
}

fn schema() -> Value {
    let crd = value(CRD);
    let version = crd.pointer("/spec/versions/0").unwrap();
    assert_eq!(crd["spec"]["group"], "mesh-agent.dev");
    assert_eq!(crd["spec"]["names"]["kind"], "RateLimitPolicy");
    assert_eq!(version["name"], "v1alpha1");
    version.pointer("/schema/openAPIV3Schema").unwrap().clone()
}

/// Every name of a property, at any depth.
fn names(schema: &Value, found: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            found.push(name.clone());
            names(property, found);
        }
    }
    if let Some(items) = schema.get("items") {
        names(items, found);
    }
}

#[test]
fn what_is_read_whole_is_let_through() {
    assert_eq!(check(&schema(), &value(WHOLE), ""), Ok(()));
}

#[test]
fn every_property_of_the_schema_is_in_what_is_read_whole() {
    let mut found = Vec::new();
    names(&schema()["properties"]["spec"], &mut found);
    assert!(found.len() > 30, "{found:?}");
    for name in found {
        assert!(WHOLE.contains(&format!("{name}:")), "{name}");
    }
}

#[test]
fn what_the_schema_can_see_to_be_wrong_is_held_back() {
    for (limit, _, is_seen) in WRONG {
        let checked = check(&schema(), &value(&wrong_policy(limit)), "");
        assert_eq!(checked.is_err(), is_seen, "{limit}: {checked:?}");
    }
}

/// What a writer is told of the policy in `text`, of whose targets the snapshot knows none of `unknown`; the schema lets
/// it through.
fn told(text: &str, unknown: usize) -> Vec<(String, String, String)> {
    let mut reading = read(text);
    let of_snapshot = |_| Rejection {
        origin: "f".to_owned(),
        object: "RateLimitPolicy shop/p".to_owned(),
        field: "spec.targetRefs".to_owned(),
        reason: "Service shop/x is not known".to_owned(),
    };
    reading.rejections.extend((0..unknown).map(of_snapshot));
    let all = of_rate_limits(&reading.facts.rate_limit_policies, &reading.rejections);
    let [
        ObjectConditions {
            object, conditions, ..
        },
    ] = &all[..]
    else {
        panic!("not one policy: {all:?}");
    };
    assert_eq!(object, "RateLimitPolicy shop/p");
    let mut written = value(text);
    written["status"] = serde_json::json!({ "observedGeneration": 1, "conditions": conditions });
    for condition in written["status"]["conditions"].as_array_mut().unwrap() {
        condition["lastTransitionTime"] = "2026-01-01T00:00:00Z".into();
    }
    assert_eq!(
        check(&schema()["properties"]["status"], &written["status"], "status"),
        Ok(())
    );
    let told = conditions.iter().map(|one| {
        let holds = format!("{}={}", one.r#type, one.status);
        (holds, one.reason.clone(), one.message.clone())
    });
    told.collect()
}

#[test]
fn each_policy_has_conditions_that_a_writer_can_take() {
    let accepted = || ("Accepted=True".to_owned(), "Accepted".to_owned(), String::new());
    assert_eq!(told(WHOLE, 0), [accepted()]);
    let on_trial = WHOLE.replace(
        "namespace: shop }",
        "namespace: shop, annotations: { istio.io/dry-run: perhaps } }",
    );
    let partly = told(&on_trial, 0);
    assert_eq!(partly[0], accepted());
    assert_eq!(
        (&*partly[1].0, &*partly[1].1),
        ("PartiallyInvalid=True", "UnsupportedValue")
    );
    assert!(partly[1].2.starts_with("metadata.annotations"), "{partly:?}");
    let lost = told(WHOLE, 1);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!((&*lost[0].0, &*lost[0].1), ("Accepted=False", "TargetNotFound"));
    assert_eq!(lost[0].2, "spec.targetRefs: Service shop/x is not known");
    for (limit, field, _) in WRONG {
        let wrong = told(&wrong_policy(limit), 0);
        assert_eq!(wrong.len(), 1, "{limit}");
        assert_eq!(
            (&*wrong[0].0, &*wrong[0].1),
            ("Accepted=False", "Invalid"),
            "{limit}"
        );
        assert!(wrong[0].2.contains(field), "{limit}: {wrong:?}");
    }
}
