//! Who stands behind the hosts of a ServiceEntry besides the endpoints that it lists: pods that it selects, and the names that its
//! servers must prove.
//!
//! Place in the walk: part of [`super::service_entry`]. Must not know: which pods there are, whether TLS is begun.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::object::Object;
use super::tls_settings::{NAME_RULE, server_name};
use crate::mesh::backend_tls::PeerName;
use crate::mesh::facts::Rejection;
use crate::mesh::pod_selector::PodSelector;
use crate::mesh::service::ServicePort;

/// `workloadSelector`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WorkloadSelector {
    labels: BTreeMap<String, String>,
}

/// The pods behind `ports`, each with where endpoints listen for it. As in Istio an entry has a selector or endpoints, and no
/// selector is empty: it would select every pod.
pub(super) fn selected<E>(
    object: &Object,
    written: &WorkloadSelector,
    endpoints: &[E],
    ports: &[(ServicePort, u16)],
) -> Result<PodSelector, Rejection> {
    let wrong = |reason: &str| Err(object.reject("spec.workloadSelector", reason));
    if written.labels.is_empty() {
        return wrong("it needs labels: without any it would select every pod");
    }
    if !endpoints.is_empty() {
        return wrong("an entry has it or endpoints, not both");
    }
    let targets = ports
        .iter()
        .map(|(port, target)| (Arc::clone(&port.name), *target));
    Ok(PodSelector {
        labels: written.labels.clone(),
        targets: targets.collect(),
    })
}

/// `subjectAltNames`. One that cannot be read leaves the entry out: without it servers would be believed that the author did not
/// mean.
pub(super) fn names(object: &Object, written: &[String]) -> Result<Arc<[PeerName]>, Rejection> {
    let read = written.iter().enumerate().map(|(index, name)| {
        if name.contains("://") {
            return Ok(PeerName::Uri(name.as_str().into()));
        }
        let field = format!("spec.subjectAltNames[{index}]");
        let host = server_name(name).ok_or_else(|| object.reject(&field, NAME_RULE))?;
        Ok(PeerName::Host(host))
    });
    read.collect()
}
