//! The objects that the writer holds, kind by kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::ApiResource;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::kinds::Kind;

/// An object as the API server sent it, but for what says nothing of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    /// `Kind NAMESPACE/NAME`, or `Kind NAME`.
    pub(super) name: Arc<str>,
    pub(super) resource: Arc<ApiResource>,
    pub(super) value: Value,
}

/// Names an object within its kind.
type Key = (String, String);

/// What is known of one kind.
#[derive(Debug, Default)]
struct Known {
    /// None until it was listed, or found not to be served.
    now: Option<BTreeMap<Key, Arc<Held>>>,
    /// A list that is under way.
    next: BTreeMap<Key, Arc<Held>>,
}

/// All objects. Written by the watches of its kinds, read by the writer.
#[derive(Debug)]
pub(super) struct Objects {
    kinds: Mutex<BTreeMap<&'static str, Known>>,
    has_changed: Notify,
}

impl Held {
    pub(super) fn new(resource: &Arc<ApiResource>, mut value: Value) -> Self {
        if let Value::Object(object) = &mut value {
            object.insert("apiVersion".to_owned(), resource.api_version.clone().into());
            object.insert("kind".to_owned(), resource.kind.clone().into());
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                prune(metadata);
            }
        }
        let mut held = Self {
            name: "".into(),
            resource: Arc::clone(resource),
            value,
        };
        let (namespace, name) = held.key();
        let slash = if namespace.is_empty() { "" } else { "/" };
        held.name = format!("{} {namespace}{slash}{name}", resource.kind).into();
        held
    }

    /// A text of its metadata; empty where there is none.
    pub(super) fn metadata(&self, field: &str) -> &str {
        let found = self
            .value
            .get("metadata")
            .and_then(|metadata| metadata.get(field));
        found.and_then(Value::as_str).unwrap_or_default()
    }

    /// Of which of its versions what is said of it is said; none where the API server counts none.
    pub(super) fn generation(&self) -> Option<i64> {
        self.value.pointer("/metadata/generation").and_then(Value::as_i64)
    }

    fn key(&self) -> Key {
        (
            self.metadata("namespace").to_owned(),
            self.metadata("name").to_owned(),
        )
    }

    /// `ConfigMap`s are many, and few are read: the settings of the mesh, and certificates.
    fn matters(&self) -> bool {
        self.resource.kind != "ConfigMap"
            || self.metadata("name") == "istio"
            || self.value.pointer("/data/ca.crt").is_some()
    }
}

fn prune(metadata: &mut Map<String, Value>) {
    metadata.remove("managedFields");
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

impl Objects {
    /// Of each kind nothing is known.
    pub(super) fn new(kinds: &[Kind]) -> Self {
        Self {
            kinds: Mutex::new(kinds.iter().map(|kind| (kind.name, Known::default())).collect()),
            has_changed: Notify::new(),
        }
    }

    /// Returns when something changed since it returned last. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.has_changed.notified().await;
    }

    /// All objects; none while a kind is not known yet.
    pub(super) fn all_once_complete(&self) -> Option<Vec<Arc<Held>>> {
        let kinds = self.kinds.lock();
        let mut all = Vec::new();
        for known in kinds.values() {
            all.extend(known.now.as_ref()?.values().cloned());
        }
        Some(all)
    }

    /// A list of the kind begins.
    pub(super) fn begin(&self, kind: &Kind) {
        self.change(kind, |known| {
            known.next.clear();
            false
        });
    }

    /// The list holds this.
    pub(super) fn listed(&self, kind: &Kind, held: Held) {
        if held.matters() {
            self.change(kind, |known| {
                known.next.insert(held.key(), Arc::new(held));
                false
            });
        }
    }

    /// The list is complete: what is not in it is gone.
    pub(super) fn complete(&self, kind: &Kind) {
        self.change(kind, |known| {
            let next = std::mem::take(&mut known.next);
            let is_new = known.now.as_ref() != Some(&next);
            known.now = Some(next);
            is_new
        });
    }

    /// It came, or changed.
    pub(super) fn apply(&self, kind: &Kind, held: Held) {
        if !held.matters() {
            return self.remove(kind, &held);
        }
        self.change(kind, |known| {
            let (now, key) = (known.now.get_or_insert_default(), held.key());
            let is_new = now.get(&key).is_none_or(|before| **before != held);
            now.insert(key, Arc::new(held));
            is_new
        });
    }

    /// It is gone.
    pub(super) fn remove(&self, kind: &Kind, held: &Held) {
        self.change(kind, |known| {
            let now = known.now.as_mut();
            now.is_some_and(|now| now.remove(&held.key()).is_some())
        });
    }

    /// The API server does not serve the kind.
    pub(super) fn absent(&self, kind: &Kind) {
        self.begin(kind);
        self.complete(kind);
    }

    fn change(&self, kind: &Kind, change: impl FnOnce(&mut Known) -> bool) {
        let mut kinds = self.kinds.lock();
        if kinds.get_mut(kind.name).is_some_and(change) {
            self.has_changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use serde_json::json;

    use super::super::kinds::KINDS;
    use super::*;

    fn held(kind: &Kind, name: &str, data: &Value) -> Held {
        let resource = Arc::new(kind.resource("v1"));
        Held::new(
            &resource,
            json!({ "metadata": { "name": name, "namespace": "shop", "managedFields": [1] }, "data": data }),
        )
    }

    fn names(objects: &Objects) -> Option<Vec<String>> {
        let all = objects.all_once_complete()?;
        Some(all.iter().map(|held| held.name.to_string()).collect())
    }

    #[test]
    fn nothing_is_known_before_each_kind_was_listed_or_found_absent() {
        let (services, maps) = (&KINDS[0], &KINDS[1]);
        let objects = Objects::new(&KINDS[..2]);
        objects.begin(services);
        objects.listed(services, held(services, "web", &Value::Null));
        assert_eq!(names(&objects), None);
        objects.complete(services);
        assert_eq!(names(&objects), None);
        objects.absent(maps);
        assert_eq!(names(&objects), Some(vec!["Service shop/web".to_owned()]));
        // A list anew tells what is gone.
        objects.begin(services);
        objects.complete(services);
        assert_eq!(names(&objects), Some(Vec::new()));
    }

    #[test]
    fn what_stays_as_it_was_or_does_not_matter_is_no_change() {
        let (services, maps) = (&KINDS[0], &KINDS[1]);
        let objects = Objects::new(&KINDS[..2]);
        objects.absent(services);
        objects.absent(maps);
        let changed = || objects.changed().now_or_never().is_some();
        assert!(changed());
        objects.apply(services, held(services, "web", &Value::Null));
        assert!(changed());
        objects.apply(services, held(services, "web", &Value::Null));
        objects.apply(maps, held(maps, "leader", &json!({ "a": "b" })));
        assert!(!changed());
        objects.apply(maps, held(maps, "roots", &json!({ "ca.crt": "x" })));
        assert!(changed());
        objects.apply(maps, held(maps, "roots", &json!({ "a": "b" })));
        assert!(changed(), "it holds no certificate any longer");
        assert_eq!(names(&objects), Some(vec!["Service shop/web".to_owned()]));
    }
}
