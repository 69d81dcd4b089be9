//! What becomes of a `RateLimitPolicy`.

use std::collections::{BTreeMap, BTreeSet};

use super::{ACCEPTED, Condition, ObjectConditions, PARTIALLY_INVALID, Seen, Status, condition, message};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::PolicyTarget;
use crate::mesh::policy::rate_limit::RateLimitPolicy;

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

/// The same for one of them, by its name.
pub(super) fn status(seen: &Seen<'_>, object: &str) -> Status {
    let mut policies = seen.facts.rate_limit_policies.iter();
    let read = policies.find(|policy| policy.meta.object.as_ref() == object);
    Status::Conditions {
        conditions: conditions(read, seen.rejections(object)),
        owned: &[ACCEPTED, PARTIALLY_INVALID],
        features: None,
    }
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
        conditions.push(condition(PARTIALLY_INVALID, true, "UnsupportedValue", message));
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

const RATE_LIMIT: &str = "RateLimitPolicy ";
const TARGETS: &str = "spec.targetRefs";
