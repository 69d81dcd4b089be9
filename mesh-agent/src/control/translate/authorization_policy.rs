//! Istio's AuthorizationPolicy: who may ask what of which workloads.
//!
//! Place in the walk: becomes the protection of workloads. Must not know: which workloads exist.
//!
//! Nothing here is left out: what cannot be read refuses (ADR 0013). A part of a rule that is wrong or not supported
//! errs towards refusing in that rule; a policy that is wrong as a whole refuses all for the workloads that it selects,
//! and one whose selection is wrong does so in its whole namespace.

use std::sync::Arc;

use serde_json::Value;

use super::object::{Object, unknown_fields};
use super::{authorization_rule, policy_target};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::{AuthorizationPolicy, PolicyAction, PolicyRule, PolicyTarget};

pub(super) fn translate(
    object: &Object,
    trust_domain: &str,
    rejections: &mut Vec<Rejection>,
) -> AuthorizationPolicy {
    let is_dry_run = is_dry_run(object, rejections);
    let mut reading = Spec {
        object,
        rejections,
        is_whole: true,
    };
    let target = reading.target();
    let action = reading.action();
    let provider = reading.provider(action, is_dry_run);
    let rules = reading.rules(action, trust_domain);
    for field in unknown_fields(object.spec(), &FIELDS) {
        reading.refuse(&format!("spec.{field}"), "is not a field of this kind");
    }
    let (action, rules) = if reading.is_whole {
        (action, rules)
    } else {
        (PolicyAction::Deny, vec![PolicyRule::default()])
    };
    AuthorizationPolicy {
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        target,
        action,
        provider,
        rules,
        is_dry_run,
    }
}

/// Whether a policy is only on trial.
pub(super) fn is_dry_run(object: &Object, rejections: &mut Vec<Rejection>) -> bool {
    match object.annotation(DRY_RUN) {
        Some("true") => true,
        Some("false") | None => false,
        Some(_) => {
            let field = format!("metadata.annotations[{DRY_RUN}]");
            rejections.push(object.reject(&field, "write \"true\" or \"false\"; the policy is enforced"));
            false
        }
    }
}

/// A `spec` that is being read.
struct Spec<'a> {
    object: &'a Object,
    rejections: &'a mut Vec<Rejection>,
    /// Nothing was wrong that concerns the policy as a whole.
    is_whole: bool,
}

impl Spec<'_> {
    fn field(&self, name: &str) -> Option<&Value> {
        self.object.spec().get(name).filter(|value| !value.is_null())
    }

    /// Reports what makes the policy refuse all that it would have judged.
    fn refuse(&mut self, field: &str, what: &str) {
        self.is_whole = false;
        let reason = format!("{what}; until this is right, all is refused for the workloads of the policy");
        self.rejections.push(self.object.reject(field, reason));
    }

    fn target(&mut self) -> PolicyTarget {
        let read = policy_target::Reading::of(self.object);
        self.rejections.extend(read.reports);
        for (field, what) in read.wrong {
            self.refuse(&field, &what);
        }
        read.target
    }

    fn action(&mut self) -> PolicyAction {
        let action = match self.field("action").map(Value::as_str) {
            None | Some(Some("ALLOW")) => PolicyAction::Allow,
            Some(Some("DENY")) => PolicyAction::Deny,
            Some(Some("AUDIT")) => PolicyAction::Audit,
            Some(Some("CUSTOM")) => PolicyAction::Custom,
            Some(_) => {
                self.refuse("spec.action", "write ALLOW, DENY, AUDIT or CUSTOM");
                PolicyAction::Deny
            }
        };
        if self.field("provider").is_some() && action != PolicyAction::Custom {
            self.refuse("spec.provider", "only CUSTOM has a provider");
        }
        action
    }

    /// Who is asked; a CUSTOM policy that names nobody refuses what it matches.
    fn provider(&mut self, action: PolicyAction, is_dry_run: bool) -> Option<Arc<str>> {
        if action != PolicyAction::Custom {
            return None;
        }
        if is_dry_run {
            let field = format!("metadata.annotations[{DRY_RUN}]");
            let reason = "a provider is asked in earnest or not at all; the policy has no effect";
            self.rejections.push(self.object.reject(&field, reason));
        }
        let object = self.object;
        let provider = object.spec().get("provider").unwrap_or(&Value::Null);
        if let Some(field) = unknown_fields(provider, &["name"]).next() {
            let field = format!("spec.provider.{}", field.escape_debug());
            self.refuse(&field, "is not a field of a provider");
        }
        let name = provider.get("name").and_then(Value::as_str);
        let name = name.filter(|name| !name.is_empty());
        if name.is_none() {
            self.rejections.push(self.object.reject(
                "spec.provider.name",
                "CUSTOM needs the name of an extension provider; what its rules match is refused",
            ));
        }
        name.map(Arc::from)
    }

    fn rules(&mut self, action: PolicyAction, trust_domain: &str) -> Vec<PolicyRule> {
        let rules = match self.object.spec().get("rules") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(rules)) => rules,
            Some(_) => {
                self.refuse("spec.rules", "expected a list");
                return Vec::new();
            }
        };
        let mut translated = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let mut reading = authorization_rule::Reading {
                object: self.object,
                trust_domain,
                action,
                rejections: self.rejections,
            };
            translated.push(reading.rule(&format!("spec.rules[{index}]"), rule));
        }
        translated
    }
}

const FIELDS: [&str; 6] = [
    "selector",
    "targetRef",
    "targetRefs",
    "action",
    "provider",
    "rules",
];
pub(super) const DRY_RUN: &str = "istio.io/dry-run";
