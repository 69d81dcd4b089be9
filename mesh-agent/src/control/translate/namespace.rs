//! Namespaces: which of them take part in the mesh.
//!
//! Place in the walk: read before pods. Must not know: pods.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;

use super::object::Object;
use crate::mesh::facts::Rejection;

/// The label that enrols a namespace, and with the value `disabled` takes a pod out again.
pub(super) const DATAPLANE: &str = "mesh-agent.dev/dataplane";
const DNS_CAPTURE: &str = "mesh-agent.dev/dns-capture";

/// What namespaces say about their pods.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    enrolled: HashSet<Arc<str>>,
    dns_capture: HashMap<Arc<str>, bool>,
}

impl Namespaces {
    pub(super) fn learn(&mut self, object: &Object, rejections: &mut Vec<Rejection>) {
        let namespace: Namespace = match object.parse() {
            Ok(namespace) => namespace,
            Err(rejection) => return rejections.push(rejection),
        };
        if dataplane(object, namespace.metadata.labels.as_ref(), rejections) == Some(Dataplane::Enabled) {
            self.enrolled.insert(Arc::clone(&object.name));
        }
        let captured = dns_capture(object, namespace.metadata.annotations.as_ref(), rejections);
        self.dns_capture
            .extend(captured.map(|is_captured| (Arc::clone(&object.name), is_captured)));
    }

    /// What a namespace says about DNS capture of its pods.
    pub(super) fn dns_capture(&self, namespace: &str) -> Option<bool> {
        self.dns_capture.get(namespace).copied()
    }

    pub(super) fn is_enrolled(&self, namespace: &str) -> bool {
        self.enrolled.contains(namespace)
    }
}

/// What the annotation of a Pod or a Namespace says about DNS capture. Another value is reported and counts as no
/// annotation.
pub(super) fn dns_capture(
    object: &Object,
    annotations: Option<&BTreeMap<String, String>>,
    rejections: &mut Vec<Rejection>,
) -> Option<bool> {
    match annotations?.get(DNS_CAPTURE)?.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            let field = format!("metadata.annotations[{DNS_CAPTURE}]");
            let reason = format!("{other:?} is neither \"true\" nor \"false\"; ignored");
            rejections.push(object.reject(&field, reason));
            None
        }
    }
}

/// What the dataplane label of an object says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dataplane {
    Enabled,
    Disabled,
}

/// A value that is neither of the two is reported and counts as no label.
pub(super) fn dataplane(
    object: &Object,
    labels: Option<&BTreeMap<String, String>>,
    rejections: &mut Vec<Rejection>,
) -> Option<Dataplane> {
    match labels?.get(DATAPLANE)?.as_str() {
        "enabled" => Some(Dataplane::Enabled),
        "disabled" => Some(Dataplane::Disabled),
        other => {
            let field = format!("metadata.labels[{DATAPLANE}]");
            rejections.push(object.reject(
                &field,
                format!("{other:?} is neither \"enabled\" nor \"disabled\"; ignored"),
            ));
            None
        }
    }
}
