//! The name service of a pod: an `/etc/hosts` with the names that cluster DNS would answer.
//!
//! Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::kubelet::{Cluster, PodPlan, ServicePlan};

/// The hosts file of one pod. Headless Services answer with their ready pods' addresses.
pub fn file_for(pod: &PodPlan, cluster: &Cluster) -> String {
    let mut by_address: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for address in pod.addresses() {
        by_address.entry(address).or_default().push(pod.name.name.clone());
    }
    for service in &cluster.services {
        for address in addresses(service, cluster) {
            by_address
                .entry(address)
                .or_default()
                .extend(names(service, &pod.name.namespace));
        }
    }
    let loopback = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"].map(str::to_owned);
    let lines = by_address
        .iter()
        .map(|(address, names)| format!("{address} {}", names.join(" ")));
    let lines: Vec<_> = loopback.into_iter().chain(lines).chain([String::new()]).collect();
    lines.join("\n")
}

fn addresses(service: &ServicePlan, cluster: &Cluster) -> Vec<IpAddr> {
    if !service.cluster_ips.is_empty() {
        return service.cluster_ips.clone();
    }
    let Some(selector) = service
        .object
        .pointer("/spec/selector")
        .and_then(Value::as_object)
    else {
        return Vec::new();
    };
    let selected = cluster.pods.values().filter(|pod| {
        pod.is_ready
            && pod.name.namespace == service.namespace
            && selector
                .iter()
                .all(|(key, value)| pod.labels.get(key).map(String::as_str) == value.as_str())
    });
    selected.flat_map(PodPlan::addresses).collect()
}

/// The names of a Service as seen from a namespace, as with the search list of a pod's resolver.
fn names(service: &ServicePlan, from_namespace: &str) -> Vec<String> {
    let (name, namespace) = (&service.name, &service.namespace);
    let mut names = vec![
        format!("{name}.{namespace}.svc.cluster.local"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
    ];
    if namespace == from_namespace {
        names.push(name.clone());
    }
    names
}
