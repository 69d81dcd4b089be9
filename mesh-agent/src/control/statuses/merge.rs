//! What a status becomes when our part of it is put in: others' entries stay, and times stay where nothing changed.
//!
//! Pure. Where only others' parts differ nothing is to be written, so that two controllers never write in turn.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::control::conditions::{CONTROLLER, Condition, Entry, Status};

/// The fields of `status` that have to be written into `object`; none where they are there already.
pub(super) fn merged(object: &Value, wanted: &Status) -> Option<Value> {
    merged_at(object, wanted, Timestamp::now())
}

fn merged_at(object: &Value, wanted: &Status, now: Timestamp) -> Option<Value> {
    let writing = Writing {
        generation: object.pointer("/metadata/generation").and_then(Value::as_i64),
        now: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    let status = object.get("status").unwrap_or(&Value::Null);
    match wanted {
        Status::Parents(entries) => writing.entries(status, ("parents", "parentRef"), MOST_PARENTS, entries),
        Status::Ancestors(entries) => {
            writing.entries(status, ("ancestors", "ancestorRef"), MOST_ANCESTORS, entries)
        }
        Status::Conditions {
            conditions,
            owned,
            features,
        } => writing.conditions(status, conditions, owned, *features),
    }
}

struct Writing {
    generation: Option<i64>,
    now: String,
}

impl Writing {
    fn entries(
        &self,
        status: &Value,
        (list, reference): (&str, &str),
        most: usize,
        wanted: &[Entry],
    ) -> Option<Value> {
        let present = items(status, list);
        let (ours, others): (Vec<_>, Vec<_>) = present
            .iter()
            .partition(|one: &&Value| one.get("controllerName").is_some_and(|name| name == CONTROLLER));
        let entry = |wanted: &Entry| {
            let before = ours
                .iter()
                .find(|one| one.get(reference) == Some(&wanted.reference));
            let before = before.map_or(&[][..], |before| items(before, "conditions"));
            json!({
                reference: wanted.reference,
                "controllerName": CONTROLLER,
                "conditions": self.with_times(&wanted.conditions, before),
            })
        };
        // The API takes no more, and nobody may put others out.
        let room = most.saturating_sub(others.len());
        let new: Vec<Value> = wanted.iter().take(room).map(entry).collect();
        if new.iter().eq(ours.iter().copied()) {
            return None;
        }
        let all: Vec<&Value> = others.into_iter().chain(&new).collect();
        Some(json!({ list: all }))
    }

    fn conditions(
        &self,
        status: &Value,
        wanted: &[Condition],
        owned: &[&str],
        features: Option<&[&str]>,
    ) -> Option<Value> {
        let present = items(status, "conditions");
        let is_ours = |one: &&Value| {
            one.get("type")
                .is_some_and(|name| owned.iter().any(|own| name == own))
        };
        let (ours, others): (Vec<_>, Vec<_>) = present.iter().partition(is_ours);
        let new = self.with_times(wanted, present);
        let is_same = new.len() == ours.len() && new.iter().all(|one| ours.contains(&one));
        let features: Option<Vec<Value>> =
            features.map(|names| names.iter().map(|name| json!({ "name": name })).collect());
        let is_same_list = features
            .as_ref()
            .is_none_or(|features| features == items(status, "supportedFeatures"));
        if is_same && is_same_list {
            return None;
        }
        let all: Vec<&Value> = others.into_iter().chain(&new).collect();
        let mut status = json!({ "conditions": all });
        if let (Some(features), Value::Object(fields)) = (features, &mut status) {
            fields.insert("supportedFeatures".to_owned(), features.into());
        }
        Some(status)
    }

    /// A condition that says what it said before has said so since then.
    fn with_times(&self, wanted: &[Condition], before: &[Value]) -> Vec<Value> {
        let with_time = |wanted: &Condition| {
            let same = before.iter().find(|one| {
                one.get("type").is_some_and(|name| *name == wanted.r#type)
                    && one.get("status").is_some_and(|status| *status == wanted.status)
            });
            let since = same.and_then(|one| one.get("lastTransitionTime")).cloned();
            let mut condition = json!({
                "type": wanted.r#type,
                "status": wanted.status,
                "reason": wanted.reason,
                "message": wanted.message,
                "lastTransitionTime": since.unwrap_or_else(|| self.now.clone().into()),
            });
            if let (Some(generation), Value::Object(fields)) = (self.generation, &mut condition) {
                fields.insert("observedGeneration".to_owned(), generation.into());
            }
            condition
        };
        wanted.iter().map(with_time).collect()
    }
}

fn items<'v>(of: &'v Value, field: &str) -> &'v [Value] {
    of.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Gateway API's bounds of `status.parents` and `status.ancestors`.
const MOST_PARENTS: usize = 32;
const MOST_ANCESTORS: usize = 16;

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
