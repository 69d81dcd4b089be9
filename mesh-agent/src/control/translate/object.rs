//! What all objects have in common: type, name, and reading a part with the path of what is wrong in it.
//!
//! Place in the walk: the first step of every translation. Must not know: any kind's fields.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::manifest::Document;
use crate::mesh::facts::{ObjectMeta, Rejection};

/// An object of a kind that matters to the mesh.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) meta: Arc<ObjectMeta>,
    value: Value,
}

/// The part that every object has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: HeadMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HeadMetadata {
    name: Option<String>,
    namespace: Option<String>,
    creation_timestamp: Option<Time>,
}

impl Object {
    /// `None` for an object of a kind that is not the mesh's business.
    pub(super) fn read(document: Document) -> Result<Option<Self>, Rejection> {
        let Document { origin, place, value } = document;
        let unnamed = ObjectMeta {
            origin: Arc::clone(&origin),
            object: place.as_str().into(),
            created: None,
        };
        if !value.is_object() {
            return Err(unnamed.reject(
                "",
                "not a Kubernetes object: expected a mapping with apiVersion and kind",
            ));
        }
        let head: Head = parse(&value, "").map_err(|(field, reason)| unnamed.reject(&field, reason))?;
        let Some((group, versions)) = known(&head.api_version, &head.kind) else {
            return if is_missed(&head.api_version, &head.kind, &value) {
                let name = head.metadata.name.unwrap_or_default();
                let namespace = head.metadata.namespace.unwrap_or_else(|| "default".into());
                let object = full_name(&head.kind, &namespace, &name);
                let meta = ObjectMeta {
                    object: object.into(),
                    ..unnamed
                };
                Err(meta.reject("kind", "this kind is not supported yet; the object has no effect"))
            } else {
                Ok(None)
            };
        };
        let name = head.metadata.name.unwrap_or_default();
        let is_namespaced = head.kind != "Namespace";
        let namespace = if is_namespaced {
            head.metadata.namespace.unwrap_or_else(|| "default".into())
        } else {
            String::new()
        };
        let object = if is_namespaced {
            full_name(&head.kind, &namespace, &name)
        } else {
            format!("{} {}", head.kind, name.escape_debug())
        };
        let meta = ObjectMeta {
            origin,
            object: object.into(),
            created: head.metadata.creation_timestamp.and_then(created),
        };
        let version = head.api_version.rsplit('/').next().unwrap_or_default();
        if !versions.contains(&version) {
            let group = if group.is_empty() {
                String::new()
            } else {
                format!("{group}/")
            };
            return Err(meta.reject(
                "apiVersion",
                format!("{version} is not known; use {group}{}", versions.join(", ")),
            ));
        }
        if !is_name(&name) {
            return Err(meta.reject("metadata.name", NAME_RULE));
        }
        if is_namespaced && !is_name(&namespace) {
            return Err(meta.reject("metadata.namespace", NAME_RULE));
        }
        let (namespace, name) = (namespace.into(), name.into());
        Ok(Some(Self {
            kind: head.kind,
            namespace,
            name,
            meta: Arc::new(meta),
            value,
        }))
    }

    /// Reads the whole object as a type, or names the field that does not fit.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Rejection> {
        parse(&self.value, "").map_err(|(field, reason)| self.reject(&field, reason))
    }

    /// Reads a part of the object that was taken out of it at the path `at`.
    pub(super) fn parse_part<T: DeserializeOwned>(&self, part: &Value, at: &str) -> Result<T, Rejection> {
        parse(part, at).map_err(|(field, reason)| self.reject(&field, reason))
    }

    /// `spec`, or null.
    pub(super) fn spec(&self) -> &Value {
        self.value.get("spec").unwrap_or(&Value::Null)
    }

    pub(super) fn reject(&self, field: &str, reason: impl Into<String>) -> Rejection {
        self.meta.reject(field, reason)
    }

    /// A report of a field that is understood but has no effect yet.
    pub(super) fn unsupported(&self, field: &str) -> Rejection {
        self.reject(field, "not supported yet; ignored")
    }
}

/// The fields of a mapping that are not among `known`.
pub(super) fn unknown_fields<'v>(value: &'v Value, known: &'v [&str]) -> impl Iterator<Item = &'v str> {
    let fields = value.as_object().into_iter().flat_map(|fields| fields.iter());
    fields
        .filter(|(field, value)| !known.contains(&field.as_str()) && !value.is_null())
        .map(|(field, _)| field.as_str())
}

/// The group of a kind that the mesh reads and its known versions, the preferred first.
///
/// A kind is known by name and group, so that another group's kind of the same name is not taken for it.
fn known(api_version: &str, kind: &str) -> Option<(&'static str, &'static [&'static str])> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let (known_group, versions): (_, &[_]) = match kind {
        "Namespace" | "Pod" | "Service" => ("", &["v1"]),
        "EndpointSlice" => ("discovery.k8s.io", &["v1"]),
        "HTTPRoute" => ("gateway.networking.k8s.io", &["v1", "v1beta1"]),
        "PeerAuthentication" => ("security.istio.io", &["v1", "v1beta1"]),
        "DestinationRule" => ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"]),
        _ => return None,
    };
    (group == known_group).then_some((known_group, versions))
}

/// Whether an object of a kind that the mesh does not read would have changed traffic if it did.
fn is_missed(api_version: &str, kind: &str, value: &Value) -> bool {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("security.istio.io", "AuthorizationPolicy" | "RequestAuthentication")
        | ("networking.istio.io", "VirtualService") => true,
        // Routes of a Gateway are the Gateway's business.
        ("gateway.networking.k8s.io", "GRPCRoute" | "TLSRoute" | "TCPRoute") => {
            let parents = value.pointer("/spec/parentRefs").and_then(Value::as_array);
            parents
                .into_iter()
                .flatten()
                .any(|parent| parent.get("kind").is_some_and(|kind| kind == "Service"))
        }
        _ => false,
    }
}

/// Names that were not checked yet may hold anything.
fn full_name(kind: &str, namespace: &str, name: &str) -> String {
    format!("{kind} {}/{}", namespace.escape_debug(), name.escape_debug())
}

fn parse<T: DeserializeOwned>(value: &Value, at: &str) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = match (at, path.as_str()) {
            (_, ".") => at.to_owned(),
            ("", _) => path,
            (_, _) => format!("{at}.{path}"),
        };
        (field, error.into_inner().to_string())
    })
}

/// Kubernetes' DNS subdomain rule; what it lets through is safe to print and to put into a path or a label.
fn is_name(name: &str) -> bool {
    let is_allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    (1..=253).contains(&name.len())
        && name.bytes().all(is_allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// The API server stores whole seconds; times before 1970 count as none.
fn created(Time(timestamp): Time) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.as_second()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

const NAME_RULE: &str = "must be 1 to 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends";
