//! Pods: who they are, where they are, what they are called, and whether they take part in the mesh.
//!
//! Place in the walk: becomes the source or the destination of every connection. Must not know: Services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::exclusions::exclusions;
use super::names::Names;
use super::namespace::{Dataplane, Namespaces, dataplane, dns_capture};
use super::object::Object;
use super::piece::Around;
use super::probes;
use super::service::own_addr;
use crate::mesh::facts::Rejection;
use crate::mesh::identity::{InvalidSpiffeId, SpiffeId};
use crate::mesh::shared::Shared;
use crate::mesh::workload::{FailMode, Membership, Placement, Workload, WorkloadNaming, WorkloadUid};

/// A pod, and what it says of itself where its Namespace has a say too.
#[derive(Debug, PartialEq)]
pub(super) struct Pod {
    pub(super) workload: Shared<Workload>,
    /// It takes part if its namespace does.
    is_willing: bool,
    dns_capture: Option<bool>,
}

impl Pod {
    /// Settles what its Namespace has a say in.
    pub(super) fn join(&mut self, namespaces: &Namespaces) {
        let namespace = &self.workload.namespace;
        let membership = if self.is_willing && namespaces.is_enrolled(namespace) {
            Membership::Enrolled
        } else {
            Membership::Outside
        };
        let dns_capture = self.dns_capture.or_else(|| namespaces.dns_capture(namespace));
        // What readings hold too is copied only where it changes.
        if (membership, dns_capture) != (self.workload.membership, self.workload.dns_capture) {
            let workload = &mut *self.workload;
            (workload.membership, workload.dns_capture) = (membership, dns_capture);
        }
    }
}

/// `None` for a pod that has ended: its address may be another's already.
pub(super) fn translate(
    object: &Object,
    around: &Around<'_>,
    rejections: &mut Vec<Rejection>,
) -> Result<Option<Pod>, Rejection> {
    let names = around.names;
    let pod: api::Pod = object.parse()?;
    let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let host_network = spec.host_network.unwrap_or(false);
    let says = dataplane(object, pod.metadata.labels.as_ref(), rejections);
    let is_willing = says != Some(Dataplane::Disabled) && !host_network;
    let labels = pod.metadata.labels.unwrap_or_default();
    let uid = pod.metadata.uid.filter(|uid| !uid.is_empty());
    let owners = pod.metadata.owner_references.unwrap_or_default();
    let owner = owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .or(owners.first());
    let addrs = addrs(object, &status)?;
    let workload = Workload {
        // A manifest that no API server has stored has no uid; its name is unique among such manifests.
        uid: uid.map_or_else(
            || WorkloadUid::new(&format!("{}/{}", object.namespace, object.name)),
            |uid| WorkloadUid::new(&uid),
        ),
        static_hash: owner.and_then(|owner| static_hash(owner, pod.metadata.annotations.as_ref())),
        namespace: Arc::clone(&object.namespace),
        pod_name: Arc::clone(&object.name),
        meta: Arc::clone(&object.meta),
        node: names.shared(spec.node_name.as_deref().unwrap_or_default()),
        identity: identity(object, around.trust_domain, &spec)?.sharing(|parts| names.identities.once(parts)),
        exclusions: {
            let excluded = exclusions(object, pod.metadata.annotations.as_ref(), rejections);
            names.exclusions.once(excluded).into()
        },
        probe_ports: {
            let probed = probes::ports(object, &spec, &addrs, rejections);
            names.probe_ports.once(probed).into()
        },
        addrs,
        host_network,
        naming: {
            let owner = owner.map(|owner| (owner.kind.as_str(), owner.name.as_str()));
            let naming = naming(owner, &object.name, &labels, names);
            names.namings.once(naming).into()
        },
        labels: names.labels.once(labels).into(),
        ports: names.ports.once(named_ports(&spec)).into(),
        membership: Membership::Outside,
        placement: placement(object, pod.metadata.annotations.as_ref())?.map(Box::new),
        is_ready: is_ready(&status),
        is_terminating: pod.metadata.deletion_timestamp.is_some(),
        fail_mode: fail_mode(object, pod.metadata.annotations.as_ref(), rejections),
        dns_capture: None,
    };
    let mut pod = Pod {
        workload: workload.into(),
        is_willing,
        dns_capture: dns_capture(object, pod.metadata.annotations.as_ref(), rejections),
    };
    pod.join(around.namespaces);
    Ok(Some(pod))
}

fn identity(object: &Object, trust_domain: &str, spec: &api::PodSpec) -> Result<SpiffeId, Rejection> {
    let account = spec
        .service_account_name
        .as_deref()
        .filter(|account| !account.is_empty())
        .unwrap_or("default");
    SpiffeId::new(trust_domain, &object.namespace, account).map_err(|invalid| match invalid {
        InvalidSpiffeId::TrustDomain | InvalidSpiffeId::Scheme => object.reject(
            "",
            format!("no identity in trust domain {trust_domain:?}: {invalid}"),
        ),
        InvalidSpiffeId::Path => object.reject(
            "spec.serviceAccountName",
            format!("{account:?} cannot be part of an identity: use letters, digits, '-', '.' and '_'"),
        ),
    })
}

fn is_ready(status: &api::PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    ready.is_none_or(|condition| condition.status == "True")
}

/// `podIPs`, or `podIP` where only that is written.
fn addrs(object: &Object, status: &api::PodStatus) -> Result<Vec<IpAddr>, Rejection> {
    let many = status.pod_ips.iter().flatten().enumerate();
    let many: Vec<_> = many
        .map(|(i, addr)| (format!("status.podIPs[{i}].ip"), addr.ip.as_str()))
        .collect();
    let one = status
        .pod_ip
        .iter()
        .map(|addr| ("status.podIP".to_owned(), addr.as_str()))
        .collect();
    let mut addrs: Vec<IpAddr> = Vec::with_capacity(many.len().max(1));
    for (field, text) in if many.is_empty() { one } else { many } {
        // Absent until the pod has its sandbox.
        if text.is_empty() {
            continue;
        }
        let addr = own_addr(text).map_err(|reason| object.reject(&field, reason))?;
        if addrs.iter().any(|known| known.is_ipv4() == addr.is_ipv4()) {
            return Err(object.reject(&field, "a pod has at most one address of each family"));
        }
        addrs.push(addr);
    }
    Ok(addrs)
}

/// A value that is neither of the two is reported and counts as the stricter one.
fn fail_mode(
    object: &Object,
    annotations: Option<&BTreeMap<String, String>>,
    rejections: &mut Vec<Rejection>,
) -> FailMode {
    let written = annotations.and_then(|annotations| annotations.get(FAIL_MODE));
    match written.map(String::as_str) {
        None | Some("closed") => FailMode::Closed,
        Some("open") => FailMode::Open,
        Some(other) => {
            let field = format!("metadata.annotations[{FAIL_MODE}]");
            let reason = format!("{other:?} is neither \"open\" nor \"closed\"; counts as closed");
            rejections.push(object.reject(&field, reason));
            FailMode::Closed
        }
    }
}

/// A static pod's mirror is owned by its node. Only a hash counts, which no pod of an API server has for its uid: else one
/// could name another's.
fn static_hash(owner: &OwnerReference, annotations: Option<&BTreeMap<String, String>>) -> Option<Arc<str>> {
    let hash = annotations?.get(STATIC_HASH)?;
    let is_hash = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (owner.kind == "Node" && is_hash).then(|| hash.as_str().into())
}

/// Both annotations or neither: a pod that is half placed could be captured by half.
fn placement(
    object: &Object,
    annotations: Option<&BTreeMap<String, String>>,
) -> Result<Option<Placement>, Rejection> {
    let path = |annotation: &str| {
        let Some(written) = annotations.and_then(|annotations| annotations.get(annotation)) else {
            return Ok(None);
        };
        let path = PathBuf::from(written);
        let is_plain =
            path.is_absolute() && !written.split('/').any(|part| part == "..") && !written.contains('\0');
        if is_plain {
            return Ok(Some(path));
        }
        let field = format!("metadata.annotations[{annotation}]");
        Err(object.reject(
            &field,
            format!("{written:?} is not an absolute path without \"..\""),
        ))
    };
    let missing = |annotation: &str, other: &str| {
        let field = format!("metadata.annotations[{annotation}]");
        Err(object.reject(
            &field,
            format!("missing, although {other} is there; a pod needs both or neither"),
        ))
    };
    match (path(NETNS)?, path(CGROUP)?) {
        (Some(netns), Some(cgroup)) => Ok(Some(Placement { netns, cgroup })),
        (None, None) => Ok(None),
        (Some(_), None) => missing(CGROUP, NETNS),
        (None, Some(_)) => missing(NETNS, CGROUP),
    }
}

fn named_ports(spec: &api::PodSpec) -> Vec<(String, u16)> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
        .collect()
}

/// Istio's names: the owner instead of the pod, and canonical name and revision by their order of labels.
fn naming(
    owner: Option<(&str, &str)>,
    pod_name: &str,
    labels: &BTreeMap<String, String>,
    names: &Names,
) -> WorkloadNaming {
    let first_of = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| labels.get(*name))
            .map(String::as_str)
    };
    let workload = match owner {
        Some(("ReplicaSet", name)) => deployment_of(name, labels.get(POD_TEMPLATE_HASH).map(String::as_str)),
        // A static pod's owner is its node.
        Some(("Node", _)) | None => pod_name,
        Some((_, name)) => name,
    };
    let canonical_name = first_of(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let canonical_revision = first_of(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ]);
    WorkloadNaming {
        workload: names.shared(workload),
        app: names.shared(first_of(&["app"]).unwrap_or_default()),
        version: names.shared(first_of(&["version"]).unwrap_or_default()),
        canonical_name: names.shared(canonical_name.unwrap_or(workload)),
        canonical_revision: names.shared(canonical_revision.unwrap_or("latest")),
    }
}

/// The Deployment of a ReplicaSet: its name without the hash, which the pod's label or its alphabet tells.
fn deployment_of<'n>(replica_set: &'n str, hash: Option<&str>) -> &'n str {
    let Some((deployment, suffix)) = replica_set.rsplit_once('-') else {
        return replica_set;
    };
    let is_hash = match hash {
        Some(hash) => suffix == hash,
        None => (5..=10).contains(&suffix.len()) && suffix.bytes().all(|b| HASH_ALPHABET.contains(&b)),
    };
    if is_hash { deployment } else { replica_set }
}

const FAIL_MODE: &str = "mesh-agent.dev/fail-mode";
const NETNS: &str = "mesh-agent.dev/netns";
const CGROUP: &str = "mesh-agent.dev/cgroup";
/// Kubelet writes it on the mirror of a static pod.
const STATIC_HASH: &str = "kubernetes.io/config.mirror";
const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Of k8s.io/apimachinery's `rand.SafeEncodeString`.
const HASH_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_named_by_its_owner() {
        for (owner, hash, expected) in [
            (None, None, "web-7d4b9-x"),
            (Some(("ReplicaSet", "web-7d4b9c6f5d")), Some("7d4b9c6f5d"), "web"),
            (Some(("ReplicaSet", "web-7d4b9c6f5d")), None, "web"),
            (Some(("ReplicaSet", "web-blue")), None, "web-blue"),
            (Some(("ReplicaSet", "web-bcdfg")), Some("other"), "web-bcdfg"),
            (Some(("ReplicaSet", "web")), None, "web"),
            (Some(("StatefulSet", "db")), None, "db"),
            (Some(("Node", "node-a")), None, "web-7d4b9-x"),
        ] {
            let hash = hash.map(|hash: &str| (POD_TEMPLATE_HASH.to_owned(), hash.to_owned()));
            let labels = hash.into_iter().collect();
            assert_eq!(
                &*naming(owner, "web-7d4b9-x", &labels, &Names::default()).workload,
                expected,
                "{owner:?}"
            );
        }
    }

    #[test]
    fn only_a_nodes_own_pod_has_a_static_hash() {
        let hash = "5c6f1b0e6f8a4e0c9d3b2a1f00112233";
        for (owner, written, counts) in [
            ("Node", hash, true),
            ("ReplicaSet", hash, false),
            ("Node", "0b6d3c5e-9d6a-4f7e-8a55-1c0de1f1a2b3", false),
            ("Node", "../../../../../../../../../../../a", false),
            ("Node", "", false),
        ] {
            let owner = OwnerReference {
                kind: owner.to_owned(),
                ..OwnerReference::default()
            };
            let annotations = [(STATIC_HASH.to_owned(), written.to_owned())].into();
            let found = static_hash(&owner, Some(&annotations));
            assert_eq!(found.as_deref(), counts.then_some(hash), "{owner:?} {written}");
        }
    }

    #[test]
    fn canonical_names_follow_istios_order_of_labels() {
        for (labels, name, revision) in [
            (vec![], "p", "latest"),
            (vec![("app", "a"), ("version", "v")], "a", "v"),
            (
                vec![
                    ("app", "a"),
                    ("app.kubernetes.io/name", "k"),
                    ("app.kubernetes.io/version", "kv"),
                ],
                "k",
                "kv",
            ),
            (
                vec![
                    ("app.kubernetes.io/name", "k"),
                    ("service.istio.io/canonical-name", "c"),
                    ("service.istio.io/canonical-revision", "cr"),
                ],
                "c",
                "cr",
            ),
        ] {
            let labels = labels
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            let naming = naming(None, "p", &labels, &Names::default());
            assert_eq!(
                (&*naming.canonical_name, &*naming.canonical_revision),
                (name, revision)
            );
        }
    }
}
