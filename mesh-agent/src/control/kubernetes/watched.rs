//! An object as an API server sends it, as JSON and without what no translation reads.
//!
//! Place in the walk: between the wire and the store. Must not know: what any kind means.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, Resource};
use kube::core::DynamicResourceScope;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::lean;

/// Anything with a name is accepted: what is wrong in an object is the translation's to say, and must not end a watch.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    /// Namespace, name and version: all that a watch needs.
    meta: ObjectMeta,
    object: Map<String, Value>,
}

impl Watched {
    /// Empty for objects that are in no namespace.
    pub(super) fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    /// The object with its type, which items of lists do not say, and without what changes and says nothing.
    pub(super) fn into_value(self, resource: &ApiResource) -> Value {
        let mut object = self.object;
        object.insert("apiVersion".to_owned(), resource.api_version.clone().into());
        object.insert("kind".to_owned(), resource.kind.clone().into());
        lean::cut(&resource.kind, &mut object);
        Value::Object(object)
    }
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Map::deserialize(deserializer)?;
        lean::forget_writers(&mut object);
        let text = |field: &str| Some(object.get("metadata")?.get(field)?.as_str()?.to_owned());
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, object })
    }
}

impl Resource for Watched {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(kind: &str) -> ApiResource {
        ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: String::new(),
        }
    }

    #[test]
    fn an_item_of_a_list_is_told_its_type() {
        let sent =
            json!({ "metadata": { "name": "web", "namespace": "shop", "resourceVersion": "7" }, "spec": {} });
        let watched: Watched = serde_json::from_value(sent).unwrap();
        assert_eq!((watched.namespace(), watched.name()), ("shop", "web"));
        assert_eq!(watched.meta().resource_version.as_deref(), Some("7"));
        let expected = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "shop" }, "spec": {} });
        assert_eq!(watched.into_value(&resource("Service")), expected);
    }

    #[test]
    fn an_object_with_fields_of_other_types_does_not_end_its_watch() {
        let sent = json!({ "metadata": { "name": 7, "labels": [] }, "spec": "none" });
        let watched: Watched = serde_json::from_value(sent).unwrap();
        assert_eq!(watched.name(), "");
    }
}
