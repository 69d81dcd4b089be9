//! What becomes of a Gateway API route at each Service that it attaches to (GEP-1294).

use serde_json::Value;

use super::{
    ACCEPTED, CONFLICTED, Condition, Entry, PARTIALLY_INVALID, RESOLVED_REFS, Seen, UNSUPPORTED_VALUE,
    condition, is_within, message, namespace_of,
};
use crate::mesh::facts::Rejection;
use crate::mesh::route::{HttpRule, RuleAction};
use crate::mesh::service::ServiceName;

/// One entry for each `parentRef` that is a Service; other kinds have controllers of their own.
pub(super) fn entries(seen: &Seen<'_>, object: &str, route: &Value) -> Vec<Entry> {
    let parents = route.pointer("/spec/parentRefs").and_then(Value::as_array);
    let parents = parents.into_iter().flatten().enumerate();
    let services = parents.filter(|(_, parent)| is_service(parent));
    let about = About::new(seen, object);
    services
        .map(|(index, parent)| Entry {
            reference: parent.clone(),
            conditions: about.conditions(&format!("spec.parentRefs[{index}]"), parent),
        })
        .collect()
}

fn is_service(parent: &Value) -> bool {
    let says = |field: &str, word: &str| parent.get(field).is_some_and(|said| said == word);
    says("kind", "Service") && says("group", "")
}

/// A route, and what is reported of it.
struct About<'s> {
    seen: &'s Seen<'s>,
    object: &'s str,
    is_read: bool,
    all: &'s [&'s Rejection],
    /// References that lead nowhere.
    references: Vec<&'s Rejection>,
    /// What is neither a parent's nor a reference's.
    others: Vec<&'s Rejection>,
}

impl<'s> About<'s> {
    fn new(seen: &'s Seen<'s>, object: &'s str) -> Self {
        let all = seen.rejections(object);
        let rest = all.iter().copied();
        let rest = rest.filter(|one| !is_within(&one.field, "spec.parentRefs"));
        let (references, others) = rest.partition(|one| unresolved(&one.field).is_some());
        Self {
            seen,
            object,
            is_read: seen.counted.contains(object),
            all,
            references,
            others,
        }
    }

    fn conditions(&self, field: &str, parent: &Value) -> Vec<Condition> {
        if !self.is_read {
            // What its references lead to was not even looked at.
            return vec![condition(ACCEPTED, false, UNSUPPORTED_VALUE, message(self.all))];
        }
        let (mut conflicts, mut astray, mut partly) = (Vec::new(), Vec::new(), self.others.clone());
        for one in self.all.iter().copied() {
            match one.field.strip_prefix(field) {
                Some("") => conflicts.push(one),
                Some(".name" | ".port" | ".sectionName") => astray.push(one),
                Some(rest) if rest.starts_with('.') => partly.push(one),
                Some(_) | None => {}
            }
        }
        let accepted = if !astray.is_empty() {
            condition(ACCEPTED, false, "NoMatchingParent", message(&astray))
        } else if !conflicts.is_empty() && conflicts.len() >= self.ports(parent) {
            condition(ACCEPTED, false, CONFLICTED, message(&conflicts))
        } else if self.is_refused() {
            condition(ACCEPTED, false, UNSUPPORTED_VALUE, message(&self.others))
        } else {
            partly.extend(conflicts);
            condition(ACCEPTED, true, ACCEPTED, String::new())
        };
        let is_accepted = accepted.status == "True";
        let mut conditions = vec![accepted, self.resolved_refs()];
        if is_accepted && !partly.is_empty() {
            partly.sort();
            conditions.push(condition(
                PARTIALLY_INVALID,
                true,
                UNSUPPORTED_VALUE,
                message(&partly),
            ));
        }
        conditions
    }

    fn resolved_refs(&self) -> Condition {
        let kinds: Vec<_> = self
            .references
            .iter()
            .filter_map(|one| unresolved(&one.field))
            .collect();
        match kinds.iter().min() {
            None => condition(RESOLVED_REFS, true, RESOLVED_REFS, String::new()),
            Some(reason) => condition(RESOLVED_REFS, false, reason.as_str(), message(&self.references)),
        }
    }

    /// How many ports of its Service a parent is about.
    fn ports(&self, parent: &Value) -> usize {
        let text = |field: &str| parent.get(field).and_then(Value::as_str);
        let namespace = text("namespace").unwrap_or_else(|| namespace_of(self.object));
        let name = ServiceName::new(namespace, text("name").unwrap_or_default());
        let (port, section) = (parent.get("port").and_then(Value::as_u64), text("sectionName"));
        let Some(service) = self.seen.services.get(&name) else {
            return 0;
        };
        let ports = service.ports.iter();
        let ports = ports.filter(|one| port.is_none_or(|port| port == u64::from(one.port)));
        ports
            .filter(|one| section.is_none_or(|section| section == one.name.as_ref()))
            .count()
    }

    /// Whether no rule does what it says, for what it holds beside backends that are not there.
    fn is_refused(&self) -> bool {
        let blamed = |index: usize| {
            let rule = format!("spec.rules[{index}]");
            self.others.iter().any(|one| is_within(&one.field, &rule))
        };
        let does_nothing =
            |rule: &HttpRule| matches!(&rule.action, RuleAction::Forward(backends) if backends.is_empty());
        let http = self.seen.http_routes.get(self.object).map(|route| {
            let rules = route.rules.iter().enumerate();
            rules
                .map(|(index, rule)| does_nothing(rule) && blamed(index))
                .collect::<Vec<_>>()
        });
        let stream = self.seen.stream_routes.get(self.object).map(|route| {
            let rules = route.rules.iter().enumerate();
            rules
                .map(|(index, rule)| rule.backends.is_empty() && blamed(index))
                .collect()
        });
        let refused = http.or(stream).unwrap_or_default();
        !refused.is_empty() && refused.into_iter().all(|is_refused| is_refused)
    }
}

/// Why a reference leads nowhere. The first of several is the condition's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unresolved {
    InvalidKind,
    BackendNotFound,
}

impl Unresolved {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidKind => "InvalidKind",
            Self::BackendNotFound => "BackendNotFound",
        }
    }
}

/// What is wrong where a field names a backend, be it a rule's, a mirror's or an authorizer's.
fn unresolved(field: &str) -> Option<Unresolved> {
    let (reference, part) = field.rsplit_once('.')?;
    let last = reference.rsplit('.').next().unwrap_or_default();
    let is_reference = last == "backendRef" || last.starts_with("backendRefs[");
    match part {
        "kind" | "group" if is_reference => Some(Unresolved::InvalidKind),
        "name" | "port" | "namespace" if is_reference => Some(Unresolved::BackendNotFound),
        _ => None,
    }
}
