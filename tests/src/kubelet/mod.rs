//! The manifests as a cluster would have completed them: addresses, ids, annotations and EndpointSlices.
//!
//! Pure: the same input gives the same cluster, but for the ids it is handed. It must not refuse what is malformed:
//! such a document is passed on untouched, since the agent has to name it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use crate::addresses::{Addresses, fabric_ipv4, fabric_ipv6, node_index, node_ipv4, node_ipv6};
use crate::endpoints;
use crate::input::{Content, Input, PodName};
use crate::manifest::{change, name_of, string_map, text_at, to_yaml};
use crate::nodes;
use crate::site::Site;

/// The annotation by which a pod that no kubelet manages names its network namespace.
pub const NETNS_ANNOTATION: &str = "mesh-agent.dev/netns";
/// The annotation by which such a pod names its cgroup.
pub const CGROUP_ANNOTATION: &str = "mesh-agent.dev/cgroup";
/// The annotation by which a manifest asks the lab for a pod without an IPv4 address; any value does.
const IPV6_ONLY_ANNOTATION: &str = "/metadata/annotations/lab.test~1ipv6-only";

/// A pod, with all that a kubelet and a network plugin would have given it.
#[derive(Debug, Clone)]
pub struct PodPlan {
    /// Its name.
    pub name: PodName,
    /// The node it runs on.
    pub node: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Whether it goes without its IPv4 address.
    pub is_ipv6_only: bool,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its containers' ports by name.
    pub ports: BTreeMap<String, u16>,
    /// False when the manifest says that the pod is not ready.
    pub is_ready: bool,
    /// Its network namespace.
    pub netns: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
}

impl PodPlan {
    /// The addresses that it has.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = (!self.is_ipv6_only).then_some(IpAddr::V4(self.ipv4));
        ipv4.into_iter().chain([IpAddr::V6(self.ipv6)])
    }
}

/// A Service, with its addresses.
#[derive(Debug, Clone)]
pub struct ServicePlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses; none when it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// The object.
    pub object: Value,
}

/// The completed cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Pods by name.
    pub pods: BTreeMap<PodName, PodPlan>,
    /// Services in the order of their files.
    pub services: Vec<ServicePlan>,
    /// Files for the agents to read: name and text.
    pub files: Vec<(String, String)>,
}

/// Completes the manifests of a lab; `new_uid` gives a fresh id at each call.
pub fn complete(input: &Input, site: &Site, mut new_uid: impl FnMut() -> Result<String>) -> Result<Cluster> {
    let mut cluster = Cluster::default();
    let mut addresses = Addresses::taken_in(input);
    let mut files = input.manifests.clone();
    for file in &mut files {
        let Content::Documents(documents) = &mut file.content else {
            continue;
        };
        for document in documents {
            match document.get("kind").and_then(Value::as_str) {
                Some("Pod") => {
                    if let Some(pod) = complete_pod(document, input, site, &mut addresses, &mut new_uid)? {
                        cluster.pods.entry(pod.name.clone()).or_insert(pod);
                    }
                }
                Some("Service") => cluster
                    .services
                    .extend(complete_service(document, &mut addresses)?),
                _ => {}
            }
        }
    }
    for program in &input.lab.pods {
        ensure!(
            cluster.pods.contains_key(&program.pod),
            "lab.yaml gives a program to {}, but no manifest has that Pod on one of the lab's nodes",
            program.pod
        );
    }
    let own_slices = endpoints::services_with_slices(&files);
    for file in files {
        let text = match file.content {
            Content::Documents(documents) => to_yaml(&documents)?,
            Content::Malformed(text) => text,
        };
        cluster.files.push((file.name, text));
    }
    let undeclared = nodes::undeclared(input);
    if !undeclared.is_empty() {
        cluster
            .files
            .push((nodes::FILE.to_owned(), to_yaml(&undeclared)?));
    }
    for service in &cluster.services {
        if !own_slices.contains(&(service.namespace.clone(), service.name.clone())) {
            let slices = endpoints::slices(service, cluster.pods.values());
            if !slices.is_empty() {
                cluster.files.push((
                    endpoints::file_name(&service.namespace, &service.name),
                    to_yaml(&slices)?,
                ));
            }
        }
    }
    Ok(cluster)
}

fn complete_pod(
    document: &mut Value,
    input: &Input,
    site: &Site,
    addresses: &mut Addresses,
    new_uid: &mut impl FnMut() -> Result<String>,
) -> Result<Option<PodPlan>> {
    let Some((namespace, name)) = name_of(document) else {
        return Ok(None);
    };
    let Ok(name) = format!("{namespace}/{name}").parse::<PodName>() else {
        return Ok(None);
    };
    let Some(node) = text_at(document, "/spec/nodeName").map(str::to_owned) else {
        return Ok(None);
    };
    let Some(node_index) = node_index(input, &node) else {
        return Ok(None);
    };
    let given = pod_ips(document);
    let ipv4 = given.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let ipv6 = given.iter().find_map(|ip| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    });
    let host = addresses.next_host(node_index)?;
    let pod = PodPlan {
        node,
        ipv4: ipv4.unwrap_or_else(|| node_ipv4(node_index, host)),
        ipv6: ipv6.unwrap_or_else(|| node_ipv6(node_index, host)),
        is_ipv6_only: document.pointer(IPV6_ONLY_ANNOTATION).is_some(),
        uid: match text_at(document, "/metadata/uid") {
            Some(uid) => uid.to_owned(),
            None => new_uid()?,
        },
        labels: string_map(document.pointer("/metadata/labels")),
        ports: container_ports(document),
        is_ready: is_ready(document),
        netns: site.pod_netns(&name),
        cgroup: site.pod_cgroup(text_at(document, "/spec/nodeName").unwrap_or_default(), &name),
        name,
    };
    write_pod(document, &pod, node_index);
    Ok(Some(pod))
}

/// Writes into the manifest what a kubelet would report.
fn write_pod(document: &mut Value, pod: &PodPlan, node_index: u8) {
    let Some(object) = document.as_object_mut() else {
        return;
    };
    change(object, "metadata", |metadata| {
        metadata.insert("uid".to_owned(), json!(pod.uid));
        change(metadata, "annotations", |annotations| {
            let netns = Site::netns_path(&pod.netns).display().to_string();
            annotations
                .entry(NETNS_ANNOTATION)
                .or_insert_with(|| json!(netns));
            annotations
                .entry(CGROUP_ANNOTATION)
                .or_insert_with(|| json!(pod.cgroup.display().to_string()));
        });
    });
    let (host4, host6) = (fabric_ipv4(node_index), fabric_ipv6(node_index));
    change(object, "status", |status| {
        let ips: Vec<_> = pod.addresses().map(|ip| json!({ "ip": ip })).collect();
        status.insert("podIP".to_owned(), json!(pod.addresses().next()));
        status.insert("podIPs".to_owned(), json!(ips));
        status.insert("hostIP".to_owned(), json!(host4));
        status.insert("hostIPs".to_owned(), json!([{ "ip": host4 }, { "ip": host6 }]));
        status.entry("phase").or_insert_with(|| json!("Running"));
        status
            .entry("conditions")
            .or_insert_with(|| json!([{ "type": "Ready", "status": "True" }]));
    });
}

fn complete_service(document: &mut Value, addresses: &mut Addresses) -> Result<Option<ServicePlan>> {
    let Some((namespace, name)) = name_of(document) else {
        return Ok(None);
    };
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let is_external = text_at(document, "/spec/type") == Some("ExternalName");
    let Some(spec) = document.get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(None);
    };
    if is_external {
        return Ok(None);
    }
    let families = families(spec);
    let mut cluster_ips = Vec::new();
    match spec.get("clusterIP").and_then(Value::as_str) {
        Some("None") => {}
        Some(given) => {
            let listed = spec.get("clusterIPs").and_then(Value::as_array);
            let all = listed.map_or_else(
                || vec![given],
                |ips| ips.iter().filter_map(Value::as_str).collect(),
            );
            cluster_ips.extend(all.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
        }
        None => {
            cluster_ips = addresses.next_service(&families)?;
            spec.insert("clusterIP".to_owned(), json!(cluster_ips.first()));
            spec.insert("clusterIPs".to_owned(), json!(cluster_ips));
        }
    }
    spec.entry("ipFamilies").or_insert_with(|| json!(families));
    Ok(Some(ServicePlan {
        namespace,
        name,
        cluster_ips,
        object: document.clone(),
    }))
}

/// The IP families of a Service: those it lists, else both when its policy asks for both, else IPv4.
fn families(spec: &Map<String, Value>) -> Vec<&'static str> {
    let listed = spec.get("ipFamilies").and_then(Value::as_array);
    let listed: Vec<_> = ["IPv4", "IPv6"]
        .into_iter()
        .filter(|family| listed.is_some_and(|listed| listed.iter().any(|one| one == family)))
        .collect();
    let policy = spec
        .get("ipFamilyPolicy")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !listed.is_empty() {
        listed
    } else if policy.ends_with("DualStack") {
        vec!["IPv4", "IPv6"]
    } else {
        vec!["IPv4"]
    }
}

fn container_ports(pod: &Value) -> BTreeMap<String, u16> {
    let containers = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let ports = containers
        .filter_map(|container| container.get("ports").and_then(Value::as_array))
        .flatten();
    ports
        .filter_map(|port| {
            let number = port.get("containerPort").and_then(Value::as_u64)?;
            Some((text_at(port, "/name")?.to_owned(), u16::try_from(number).ok()?))
        })
        .collect()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    !conditions
        .into_iter()
        .any(|one| text_at(one, "/type") == Some("Ready") && text_at(one, "/status") == Some("False"))
}

/// The addresses that a Pod's manifest gives itself.
pub fn pod_ips(pod: &Value) -> Vec<IpAddr> {
    let listed = pod
        .pointer("/status/podIPs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let listed = listed.filter_map(|entry| text_at(entry, "/ip"));
    listed
        .chain(text_at(pod, "/status/podIP"))
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests;
