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
#[derive(Debug, Clone, PartialEq)]
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
        let name = head.metadata.name.unwrap_or_default();
        let namespace = match head.kind.as_str() {
            "Namespace" | "Node" => None,
            _ => Some(head.metadata.namespace.unwrap_or_else(|| "default".to_owned())),
        };
        let created = head.metadata.creation_timestamp.and_then(created);
        let object = full_name(&head.kind, namespace.as_deref(), &name).into();
        let meta = ObjectMeta {
            origin,
            object,
            created,
        };
        let Some(known) = known(&head.api_version, &head.kind) else {
            return if is_missed(&head.api_version, &head.kind, &value) {
                Err(meta.reject("kind", "this kind is not supported yet; the object has no effect"))
            } else {
                Ok(None)
            };
        };
        known
            .check_version(&head.api_version)
            .map_err(|reason| meta.reject("apiVersion", reason))?;
        if !is_name(&name) {
            return Err(meta.reject("metadata.name", NAME_RULE));
        }
        if !namespace.as_deref().is_none_or(is_name) {
            return Err(meta.reject("metadata.namespace", NAME_RULE));
        }
        let (namespace, name) = (namespace.unwrap_or_default().into(), name.into());
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

    /// The part at a JSON pointer.
    pub(super) fn at(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    /// An annotation, if it is a text.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.value
            .get("metadata")?
            .get("annotations")?
            .get(name)?
            .as_str()
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

/// What an object is called here, `Kind NAMESPACE/NAME`; no namespace is empty.
pub(in crate::control) fn object_name(kind: &str, namespace: &str, name: &str) -> String {
    full_name(
        kind,
        Some(namespace).filter(|namespace| !namespace.is_empty()),
        name,
    )
}

/// A kind that the mesh reads.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::control) struct KnownKind {
    /// As manifests name it.
    pub(in crate::control) kind: &'static str,
    /// Empty for the core group.
    pub(in crate::control) group: &'static str,
    /// The preferred one first.
    pub(in crate::control) versions: &'static [&'static str],
}

impl KnownKind {
    /// `GROUP/VERSION` as objects say it.
    pub(in crate::control) fn api_version(&self, version: &str) -> String {
        let slash = if self.group.is_empty() { "" } else { "/" };
        format!("{}{slash}{version}", self.group)
    }

    fn check_version(&self, api_version: &str) -> Result<(), String> {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if self.versions.contains(&version) {
            return Ok(());
        }
        let usable: Vec<_> = self
            .versions
            .iter()
            .map(|version| self.api_version(version))
            .collect();
        Err(format!(
            "{api_version:?} is not known; use {}",
            usable.join(" or ")
        ))
    }
}

/// A kind is known by name and group, so that another group's kind of the same name is not taken for it.
fn known(api_version: &str, kind: &str) -> Option<&'static KnownKind> {
    let of_name = KINDS.iter().find(|known| known.kind == kind)?;
    (group_of(api_version) == of_name.group).then_some(of_name)
}

/// The core group has no name.
fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// Whether an object of a kind that the mesh does not read would have changed traffic if it did.
fn is_missed(api_version: &str, kind: &str, value: &Value) -> bool {
    match (group_of(api_version), kind) {
        // Routes of a Gateway are the Gateway's business.
        (GATEWAY, "UDPRoute") => {
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
fn full_name(kind: &str, namespace: Option<&str>, name: &str) -> String {
    let slash = if namespace.is_some() { "/" } else { "" };
    format!(
        "{kind} {}{slash}{}",
        namespace.unwrap_or_default().escape_debug(),
        name.escape_debug()
    )
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

const fn kind(kind: &'static str, group: &'static str, versions: &'static [&'static str]) -> KnownKind {
    KnownKind {
        kind,
        group,
        versions,
    }
}

/// All kinds that the mesh reads.
pub(in crate::control) const KINDS: [KnownKind; 19] = [
    kind("Namespace", "", &["v1"]),
    kind("Node", "", &["v1"]),
    kind("Pod", "", &["v1"]),
    kind("Service", "", &["v1"]),
    kind("ConfigMap", "", &["v1"]),
    kind("EndpointSlice", "discovery.k8s.io", &["v1"]),
    kind("HTTPRoute", GATEWAY, &["v1", "v1beta1"]),
    kind("GRPCRoute", GATEWAY, &["v1"]),
    kind("TCPRoute", GATEWAY, &["v1", "v1alpha2"]),
    kind("TLSRoute", GATEWAY, &["v1", "v1alpha3", "v1alpha2"]),
    kind("BackendTLSPolicy", GATEWAY, &["v1", "v1alpha3"]),
    kind(
        "XBackendTrafficPolicy",
        "gateway.networking.x-k8s.io",
        &["v1alpha1"],
    ),
    kind("PeerAuthentication", ISTIO_SECURITY, &["v1", "v1beta1"]),
    kind("AuthorizationPolicy", ISTIO_SECURITY, &["v1", "v1beta1"]),
    kind("RequestAuthentication", ISTIO_SECURITY, &["v1", "v1beta1"]),
    kind(
        "DestinationRule",
        ISTIO_NETWORKING,
        &["v1", "v1beta1", "v1alpha3"],
    ),
    kind("VirtualService", ISTIO_NETWORKING, &["v1", "v1beta1", "v1alpha3"]),
    kind("ServiceEntry", ISTIO_NETWORKING, &["v1", "v1beta1", "v1alpha3"]),
    kind("RateLimitPolicy", "mesh-agent.dev", &["v1alpha1"]),
];
const GATEWAY: &str = "gateway.networking.k8s.io";
const ISTIO_SECURITY: &str = "security.istio.io";
const ISTIO_NETWORKING: &str = "networking.istio.io";
const NAME_RULE: &str = "must be 1 to 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends";
