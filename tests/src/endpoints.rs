//! The endpoint controller: EndpointSlices from Services and Pods.
//!
//! Pure. It must not choose among endpoints: that is what the mesh does with them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::input::{Content, ManifestFile};
use crate::kubelet::{PodPlan, ServicePlan};
use crate::manifest::text_at;

/// The label by which a slice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The file in which the slices of a Service are put.
pub fn file_name(namespace: &str, service: &str) -> String {
    format!("endpointslices-{namespace}-{service}.yaml")
}

/// Services for which the user brought slices.
pub fn services_with_slices(files: &[ManifestFile]) -> BTreeSet<(String, String)> {
    let documents = files.iter().flat_map(|file| match &file.content {
        Content::Documents(documents) => documents.as_slice(),
        Content::Malformed(_) => &[],
    });
    documents
        .filter(|document| text_at(document, "/kind") == Some("EndpointSlice"))
        .filter_map(|slice| {
            let service = slice
                .pointer("/metadata/labels")?
                .get(SERVICE_NAME_LABEL)?
                .as_str()?;
            Some((
                text_at(slice, "/metadata/namespace")
                    .unwrap_or("default")
                    .to_owned(),
                service.to_owned(),
            ))
        })
        .collect()
}

/// The slices of a Service: one for each address family and each set of target ports that its pods have.
pub fn slices<'p>(service: &ServicePlan, pods: impl Iterator<Item = &'p PodPlan>) -> Vec<Value> {
    let Some(selector) = service
        .object
        .pointer("/spec/selector")
        .and_then(Value::as_object)
    else {
        return Vec::new();
    };
    let selected: Vec<_> = pods
        .filter(|pod| pod.name.namespace == service.namespace)
        .filter(|pod| {
            selector
                .iter()
                .all(|(key, value)| pod.labels.get(key).map(String::as_str) == value.as_str())
        })
        .collect();
    let families = service
        .object
        .pointer("/spec/ipFamilies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    families
        .filter_map(Value::as_str)
        .flat_map(|family| family_slices(service, family, &selected))
        .collect()
}

fn family_slices(service: &ServicePlan, family: &str, pods: &[&PodPlan]) -> Vec<Value> {
    // Pods may have one port name on several numbers; a slice has one number a port.
    let mut by_ports: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    let of_family = |pod: &&&PodPlan| family == "IPv6" || !pod.is_ipv6_only;
    for pod in pods.iter().filter(of_family) {
        let ports = target_ports(service, pod);
        let group = by_ports
            .entry(ports.to_string())
            .or_insert_with(|| (ports, Vec::new()));
        group.1.push(endpoint(family, pod));
    }
    let groups = by_ports.into_values().enumerate();
    groups
        .map(|(index, (ports, endpoints))| slice(service, family, index, &ports, &endpoints))
        .collect()
}

fn slice(service: &ServicePlan, family: &str, index: usize, ports: &Value, endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}-{index}", service.name, family.to_lowercase()),
            "namespace": service.namespace,
            "labels": {
                SERVICE_NAME_LABEL: service.name,
                "endpointslice.kubernetes.io/managed-by": "mesh-lab",
            },
        },
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    })
}

fn endpoint(family: &str, pod: &PodPlan) -> Value {
    let address = if family == "IPv6" {
        pod.ipv6.to_string()
    } else {
        pod.ipv4.to_string()
    };
    json!({
        "addresses": [address],
        "conditions": { "ready": pod.is_ready, "serving": pod.is_ready, "terminating": false },
        "nodeName": pod.node,
        "targetRef": {
            "kind": "Pod",
            "namespace": pod.name.namespace,
            "name": pod.name.name,
            "uid": pod.uid,
        },
    })
}

/// The Service's ports with the numbers that this pod has them on.
fn target_ports(service: &ServicePlan, pod: &PodPlan) -> Value {
    let ports = service
        .object
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let resolved = ports.filter_map(|port| {
        let number = match port.get("targetPort") {
            None => port.get("port").and_then(Value::as_u64)?,
            Some(Value::String(name)) => u64::from(*pod.ports.get(name)?),
            Some(number) => number.as_u64()?,
        };
        let mut entry = json!({
            "name": text_at(port, "/name").unwrap_or_default(),
            "port": number,
            "protocol": text_at(port, "/protocol").unwrap_or("TCP"),
        });
        if let (Some(protocol), Some(entry)) = (port.get("appProtocol"), entry.as_object_mut()) {
            entry.insert("appProtocol".to_owned(), protocol.clone());
        }
        Some(entry)
    });
    Value::Array(resolved.collect())
}
