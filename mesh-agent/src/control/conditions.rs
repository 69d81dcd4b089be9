//! What a policy's `status` says: conditions as Gateway API's policies have them (GEP-713).
//!
//! Place in the walk: beside it; worked out from a reading and what the snapshot of it left out. Must not know: who writes it
//! to an API server, or when it changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::PolicyTarget;
use crate::mesh::policy::rate_limit::RateLimitPolicy;

/// One object, and what its status says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectConditions {
    /// `Kind NAMESPACE/NAME`.
    pub object: String,
    /// Where it was read: a file path, or `api` for an API server.
    pub origin: String,
    /// `status.conditions`, but for the times, which are its writer's.
    pub conditions: Vec<Condition>,
}

/// One of `status.conditions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `Accepted`, or `PartiallyInvalid`, which is there only where it holds.
    pub r#type: String,
    /// `True` or `False`.
    pub status: String,
    /// One word: `Accepted`, `Invalid`, `TargetNotFound`, `UnsupportedValue`.
    pub reason: String,
    /// For people: each field with what is wrong and the way out.
    pub message: String,
}

/// The conditions of each `RateLimitPolicy`, those that were left out whole too, by object and origin.
pub fn of_rate_limits(policies: &[RateLimitPolicy], rejections: &[Rejection]) -> Vec<ObjectConditions> {
    let mut named: BTreeMap<(&str, &str), Vec<&Rejection>> = BTreeMap::new();
    for one in rejections.iter().filter(|one| one.object.starts_with(RATE_LIMIT)) {
        named.entry((&one.object, &one.origin)).or_default().push(one);
    }
    let read: BTreeMap<(&str, &str), &RateLimitPolicy> = policies
        .iter()
        .map(|policy| ((&*policy.meta.object, &*policy.meta.origin), policy))
        .collect();
    let all: BTreeSet<_> = named.keys().chain(read.keys()).copied().collect();
    all.into_iter()
        .map(|at| {
            let wrong = named.get(&at).map_or(&[][..], Vec::as_slice);
            ObjectConditions {
                object: at.0.to_owned(),
                origin: at.1.to_owned(),
                conditions: conditions(read.get(&at).copied(), wrong),
            }
        })
        .collect()
}

fn conditions(read: Option<&RateLimitPolicy>, wrong: &[&Rejection]) -> Vec<Condition> {
    let message = message(wrong);
    let Some(policy) = read else {
        return vec![condition(ACCEPTED, false, "Invalid", message)];
    };
    if has_no_target(policy, wrong) {
        return vec![condition(ACCEPTED, false, "TargetNotFound", message)];
    }
    let mut conditions = vec![condition(ACCEPTED, true, ACCEPTED, String::new())];
    if !wrong.is_empty() {
        conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message));
    }
    conditions
}

/// Whether each of its targets is no Service, or one that is not known.
fn has_no_target(policy: &RateLimitPolicy, wrong: &[&Rejection]) -> bool {
    let PolicyTarget::Services(services) = &policy.target else {
        return false;
    };
    // One rejection for each Service that is not known; what is no Service is no target from the beginning.
    let unknown = wrong.iter().filter(|one| one.field == TARGETS).count();
    unknown >= services.len()
}

fn message(wrong: &[&Rejection]) -> String {
    let lines: Vec<_> = wrong
        .iter()
        .map(|one| match one.field.as_str() {
            "" => one.reason.clone(),
            field => format!("{field}: {}", one.reason),
        })
        .collect();
    let mut message = lines.join("\n");
    if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
        message.truncate(end);
    }
    message
}

fn condition(of: &str, holds: bool, reason: &str, message: String) -> Condition {
    Condition {
        r#type: of.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
    }
}

const RATE_LIMIT: &str = "RateLimitPolicy ";
const TARGETS: &str = "spec.targetRefs";
const ACCEPTED: &str = "Accepted";
/// What the API machinery takes of a condition's message.
const LONGEST_MESSAGE: usize = 32_768;
