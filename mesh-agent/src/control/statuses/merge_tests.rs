//! Whose entries stay, which times stay, and when nothing is written.

use super::*;

const THEN: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    "2026-02-02T00:00:00.5Z".parse().unwrap()
}

fn condition(of: &str, status: &str) -> Condition {
    Condition {
        r#type: of.to_owned(),
        status: status.to_owned(),
        reason: "Because".to_owned(),
        message: String::new(),
    }
}

fn written(of: &str, status: &str, since: &str, generation: i64) -> Value {
    json!({ "type": of, "status": status, "reason": "Because", "message": "",
        "lastTransitionTime": since, "observedGeneration": generation })
}

fn parent(name: &str) -> Value {
    json!({ "group": "", "kind": "Service", "name": name })
}

fn entry(name: &str, status: &str) -> Entry {
    Entry {
        reference: parent(name),
        conditions: vec![condition("Accepted", status)],
    }
}

fn present(name: &str, controller: &str, conditions: &[Value]) -> Value {
    json!({ "parentRef": parent(name), "controllerName": controller, "conditions": conditions })
}

fn route(generation: i64, parents: &[Value]) -> Value {
    json!({ "metadata": { "generation": generation }, "status": { "parents": parents } })
}

fn merge(object: &Value, wanted: &Status) -> Option<Value> {
    merged_at(object, wanted, now())
}

#[test]
fn entries_of_other_controllers_stay_and_ours_are_replaced() {
    let foreign = present("web", "example.net/other", &[json!({ "type": "Theirs" })]);
    let gone = present("gone", CONTROLLER, &[written("Accepted", "True", THEN, 1)]);
    let object = route(2, &[gone, foreign.clone()]);
    let status = merge(&object, &Status::Parents(vec![entry("web", "True")])).unwrap();
    let ours = present(
        "web",
        CONTROLLER,
        &[written("Accepted", "True", "2026-02-02T00:00:00Z", 2)],
    );
    assert_eq!(status, json!({ "parents": [foreign, ours] }));
}

#[test]
fn a_time_stays_while_its_condition_says_the_same() {
    let before = present(
        "web",
        CONTROLLER,
        &[
            written("Accepted", "True", THEN, 1),
            written("ResolvedRefs", "True", THEN, 1),
        ],
    );
    let wanted = Status::Parents(vec![Entry {
        reference: parent("web"),
        conditions: vec![condition("Accepted", "True"), condition("ResolvedRefs", "False")],
    }]);
    let status = merge(&route(2, &[before]), &wanted).unwrap();
    let conditions = &status["parents"][0]["conditions"];
    assert_eq!(conditions[0], written("Accepted", "True", THEN, 2));
    assert_eq!(
        conditions[1],
        written("ResolvedRefs", "False", "2026-02-02T00:00:00Z", 2)
    );
}

#[test]
fn nothing_is_written_where_our_part_is_there_wherever_it_stands() {
    let ours = present("web", CONTROLLER, &[written("Accepted", "True", THEN, 3)]);
    let foreign = present("web", "example.net/other", &[]);
    let wanted = Status::Parents(vec![entry("web", "True")]);
    for parents in [
        vec![ours.clone()],
        vec![foreign.clone(), ours.clone()],
        vec![ours.clone(), foreign.clone()],
    ] {
        assert_eq!(merge(&route(3, &parents), &wanted), None);
    }
    // A Gateway's route is not touched at all.
    assert_eq!(merge(&route(3, &[foreign]), &Status::Parents(Vec::new())), None);
    assert_eq!(merge(&json!({}), &Status::Parents(Vec::new())), None);
    // But it is when it was ours, or another generation was judged.
    assert!(
        merge(
            &route(3, std::slice::from_ref(&ours)),
            &Status::Parents(Vec::new())
        )
        .is_some()
    );
    assert!(merge(&route(4, &[ours]), &wanted).is_some());
}

#[test]
fn others_are_never_put_out_where_a_list_is_full() {
    let foreign: Vec<_> = (0..MOST_ANCESTORS)
        .map(|n| json!({ "ancestorRef": parent(&n.to_string()), "controllerName": "example.net/other" }))
        .collect();
    let object = json!({ "status": { "ancestors": foreign } });
    assert_eq!(
        merge(&object, &Status::Ancestors(vec![entry("web", "True")])),
        None
    );
}

#[test]
fn conditions_of_others_stay_and_ours_that_hold_no_longer_go() {
    let wanted = |conditions| Status::Conditions {
        conditions,
        owned: &["Accepted", "PartiallyInvalid"],
        features: None,
    };
    let theirs = json!({ "type": "Reconciled", "status": "True" });
    let object = json!({ "metadata": { "generation": 1 }, "status": { "conditions": [
        theirs, written("PartiallyInvalid", "True", THEN, 1), written("Accepted", "True", THEN, 1) ] } });
    let status = merge(&object, &wanted(vec![condition("Accepted", "True")])).unwrap();
    let left = json!({ "conditions": [theirs, written("Accepted", "True", THEN, 1)] });
    assert_eq!(status, left);
    let settled = json!({ "metadata": { "generation": 1 }, "status": left });
    assert_eq!(
        merge(&settled, &wanted(vec![condition("Accepted", "True")])),
        None
    );
}

#[test]
fn features_are_written_once() {
    let wanted = Status::Conditions {
        conditions: vec![condition("Accepted", "True")],
        owned: &["Accepted"],
        features: Some(&["GRPCRoute", "Mesh"]),
    };
    let mut mesh = json!({ "metadata": { "generation": 1 }, "status": { "conditions": [
        written("Accepted", "Unknown", "1970-01-01T00:00:00Z", 0) ] } });
    let status = merge(&mesh, &wanted).unwrap();
    assert_eq!(
        status["supportedFeatures"],
        json!([{ "name": "GRPCRoute" }, { "name": "Mesh" }])
    );
    assert_eq!(status["conditions"].as_array().unwrap().len(), 1);
    mesh["status"] = status;
    assert_eq!(merge(&mesh, &wanted), None);
}
