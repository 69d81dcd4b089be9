//! The workloads that a security policy of Istio is about: `selector` or `targetRefs`.
//!
//! Place in the walk: part of AuthorizationPolicy and RequestAuthentication. Must not know: what a policy does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::object::{Object, unknown_fields};
use crate::mesh::facts::Rejection;
use crate::mesh::policy::authorization::PolicyTarget;
use crate::mesh::service::ServiceName;

/// What was read.
#[derive(Debug)]
pub(super) struct Reading {
    /// Everybody of the namespace where it cannot be read.
    pub(super) target: PolicyTarget,
    /// Field and reason of what makes the whole policy unreadable.
    pub(super) wrong: Vec<(String, String)>,
    /// What is only to be reported.
    pub(super) reports: Vec<Rejection>,
}

impl Reading {
    pub(super) fn of(object: &Object) -> Self {
        let mut reading = Self {
            target: everybody(),
            wrong: Vec::new(),
            reports: Vec::new(),
        };
        reading.target = reading.target(object);
        reading
    }

    fn wrong(&mut self, field: &str, what: &str) {
        self.wrong.push((field.to_owned(), what.to_owned()));
    }

    fn target(&mut self, object: &Object) -> PolicyTarget {
        if !(object.spec().is_object() || object.spec().is_null()) {
            self.wrong("spec", "expected a mapping");
            return everybody();
        }
        let part = |name: &str| object.spec().get(name).filter(|part| !part.is_null());
        let (listed, single, selector) = (part("targetRefs"), part("targetRef"), part("selector"));
        let references: Vec<(String, &Value)> = match (listed, single) {
            (None, None) => {
                return selector.map_or_else(everybody, |selector| self.selector(object, selector));
            }
            (Some(Value::Array(refs)), None) if !refs.is_empty() => {
                let named = |(index, one)| (format!("spec.targetRefs[{index}]"), one);
                refs.iter().enumerate().map(named).collect()
            }
            (None, Some(one)) => vec![("spec.targetRef".to_owned(), one)],
            (Some(_), _) => {
                self.wrong("spec.targetRefs", "expected a list of targets, and no targetRef");
                return everybody();
            }
        };
        if selector.is_some() {
            self.wrong("spec.selector", "a policy has a selector or targets, not both");
            return everybody();
        }
        let mut services = BTreeSet::new();
        for (at, reference) in references {
            match self.service(object, &at, reference) {
                Ok(service) => services.extend(service),
                Err(()) => return everybody(),
            }
        }
        PolicyTarget::Services(services)
    }

    fn selector(&mut self, object: &Object, selector: &Value) -> PolicyTarget {
        if !selector.is_object() {
            self.wrong("spec.selector", "expected a mapping");
        }
        for field in unknown_fields(selector, &["matchLabels"]) {
            self.wrong(&format!("spec.selector.{field}"), "is not a field of a selector");
        }
        let labels = selector.get("matchLabels").unwrap_or(&Value::Null);
        let labels =
            object.parse_part::<Option<BTreeMap<String, String>>>(labels, "spec.selector.matchLabels");
        match labels {
            Ok(labels) => PolicyTarget::Selector(labels.unwrap_or_default()),
            Err(rejection) => {
                self.wrong(&rejection.field, &rejection.reason);
                everybody()
            }
        }
    }

    /// `None` for a target that no pod stands behind.
    fn service(&mut self, object: &Object, at: &str, reference: &Value) -> Result<Option<ServiceName>, ()> {
        let text = |field: &str| reference.get(field).and_then(Value::as_str);
        if let Some(field) = unknown_fields(reference, &["group", "kind", "name", "namespace"]).next() {
            self.wrong(&format!("{at}.{field}"), "is not a field of a target");
            return Err(());
        }
        let (Some(kind), Some(name)) = (text("kind"), text("name")) else {
            self.wrong(at, "expected kind and name");
            return Err(());
        };
        let namespace = text("namespace").filter(|namespace| !namespace.is_empty());
        if namespace.is_some_and(|namespace| namespace != object.namespace.as_ref()) {
            self.wrong(
                &format!("{at}.namespace"),
                "a policy's target is in its own namespace",
            );
            return Err(());
        }
        if kind == "Service" && matches!(text("group"), None | Some("" | "core")) {
            return Ok(Some(ServiceName::new(&object.namespace, name)));
        }
        self.reports.push(object.reject(
            &format!("{at}.kind"),
            "only Services can be targets here; this target has no effect on pods",
        ));
        Ok(None)
    }
}

fn everybody() -> PolicyTarget {
    PolicyTarget::Selector(BTreeMap::new())
}
