//! What becomes of a Gateway API policy at each Service that it is about (GEP-713). In a mesh the Service itself is the
//! ancestor: there is no Gateway above it.

use serde_json::{Value, json};

use super::{
    ACCEPTED, CONFLICTED, Condition, Entry, PARTIALLY_INVALID, RESOLVED_REFS, Seen, UNSUPPORTED_VALUE,
    condition, is_within, message, namespace_of,
};
use crate::mesh::facts::Rejection;
use crate::mesh::service::ServiceName;

/// One entry for each `targetRef` that is a Service.
pub(super) fn entries(seen: &Seen<'_>, object: &str, policy: &Value) -> Vec<Entry> {
    let targets = policy.pointer("/spec/targetRefs").and_then(Value::as_array);
    let targets = targets.into_iter().flatten().enumerate();
    targets
        .filter_map(|(index, target)| entry(seen, object, index, target))
        .collect()
}

fn entry(seen: &Seen<'_>, object: &str, index: usize, target: &Value) -> Option<Entry> {
    let text = |field: &str| target.get(field).and_then(Value::as_str);
    let is_service = text("kind") == Some("Service") && text("group").unwrap_or_default().is_empty();
    let name = text("name").filter(|_| is_service)?;
    let namespace = namespace_of(object);
    let mut reference = json!({ "group": "", "kind": "Service", "namespace": namespace, "name": name });
    if let (Some(section), Value::Object(fields)) = (target.get("sectionName"), &mut reference) {
        fields.insert("sectionName".to_owned(), section.clone());
    }
    let is_known = seen.services.contains_key(&ServiceName::new(namespace, name));
    Some(Entry {
        reference,
        conditions: conditions(seen, object, &format!("spec.targetRefs[{index}]"), is_known),
    })
}

fn conditions(seen: &Seen<'_>, object: &str, target: &str, is_known: bool) -> Vec<Condition> {
    let all = seen.rejections(object);
    if !seen.counted.contains(object) {
        return vec![condition(ACCEPTED, false, "Invalid", message(all))];
    }
    let within = |part: &'static str| {
        let all = all.iter().copied();
        all.filter(|one| is_within(&one.field, part))
            .collect::<Vec<&Rejection>>()
    };
    let of_target: Vec<_> = all
        .iter()
        .copied()
        .filter(|one| is_within(&one.field, target))
        .collect();
    let (validation, certificates) = (within(VALIDATION), within(CERTIFICATES));
    let accepted = if let Some(first) = of_target.first() {
        let is_rival = is_known && part(first) != "sectionName";
        let reason = if is_rival { CONFLICTED } else { "TargetNotFound" };
        condition(ACCEPTED, false, reason, message(&of_target))
    } else if !certificates.is_empty() {
        condition(ACCEPTED, false, "NoValidCACertificate", message(&certificates))
    } else if !validation.is_empty() {
        condition(ACCEPTED, false, "Invalid", message(&validation))
    } else {
        condition(ACCEPTED, true, ACCEPTED, String::new())
    };
    let is_accepted = accepted.status == "True";
    let mut conditions = vec![accepted];
    if object.starts_with("BackendTLSPolicy ") {
        conditions.push(resolved_refs(&certificates));
    }
    let rest: Vec<_> = all
        .iter()
        .copied()
        .filter(|one| !is_within(&one.field, "spec.targetRefs") && !is_within(&one.field, VALIDATION))
        .collect();
    if is_accepted && !rest.is_empty() {
        conditions.push(condition(
            PARTIALLY_INVALID,
            true,
            UNSUPPORTED_VALUE,
            message(&rest),
        ));
    }
    conditions
}

fn resolved_refs(certificates: &[&Rejection]) -> Condition {
    if certificates.is_empty() {
        return condition(RESOLVED_REFS, true, RESOLVED_REFS, String::new());
    }
    let is_kind = certificates.iter().any(|one| part(one) == "kind");
    let reason = if is_kind {
        "InvalidKind"
    } else {
        "InvalidCACertificateRef"
    };
    condition(RESOLVED_REFS, false, reason, message(certificates))
}

/// The last part of the field that is reported.
fn part(of: &Rejection) -> &str {
    of.field.rsplit('.').next().unwrap_or_default()
}

const VALIDATION: &str = "spec.validation";
const CERTIFICATES: &str = "spec.validation.caCertificateRefs";
