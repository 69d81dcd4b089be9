//! Namespaces: which of them take part in the mesh.
//!
//! Place in the walk: decides with each pod's own label. Must not know: pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;

use super::object::Object;
use crate::mesh::facts::Rejection;

/// The label that enrols a namespace, and with the value `disabled` takes a pod out again.
pub(super) const DATAPLANE: &str = "mesh-agent.dev/dataplane";
const DNS_CAPTURE: &str = "mesh-agent.dev/dns-capture";

/// What one Namespace says about its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamespaceSays {
    pub(super) name: Arc<str>,
    is_enrolled: bool,
    dns_capture: Option<bool>,
}

pub(super) fn translate(
    object: &Object,
    rejections: &mut Vec<Rejection>,
) -> Result<NamespaceSays, Rejection> {
    let namespace: Namespace = object.parse()?;
    let dataplane = dataplane(object, namespace.metadata.labels.as_ref(), rejections);
    Ok(NamespaceSays {
        name: Arc::clone(&object.name),
        is_enrolled: dataplane == Some(Dataplane::Enabled),
        dns_capture: dns_capture(object, namespace.metadata.annotations.as_ref(), rejections),
    })
}

/// What namespaces say about their pods.
#[derive(Debug, Default)]
pub(super) struct Namespaces(HashMap<Arc<str>, NamespaceSays>);

impl Namespaces {
    /// A Namespace says this now, or is gone.
    pub(super) fn learn(&mut self, says: &NamespaceSays, is_there: bool) {
        if is_there {
            self.0.insert(Arc::clone(&says.name), says.clone());
        } else {
            self.0.remove(&says.name);
        }
    }

    /// What a namespace says about DNS capture of its pods.
    pub(super) fn dns_capture(&self, namespace: &str) -> Option<bool> {
        self.0.get(namespace)?.dns_capture
    }

    /// Those whose pods take part.
    pub(super) fn enrolled(&self) -> impl Iterator<Item = &Arc<str>> {
        let enrolled = self.0.values().filter(|says| says.is_enrolled);
        enrolled.map(|says| &says.name)
    }

    pub(super) fn is_enrolled(&self, namespace: &str) -> bool {
        self.0.get(namespace).is_some_and(|says| says.is_enrolled)
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
