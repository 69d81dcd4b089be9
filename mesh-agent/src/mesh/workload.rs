//! Workloads: the pods that can be a source or a destination of traffic.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::mesh::exclusions::Exclusions;
use crate::mesh::facts::ObjectMeta;
use crate::mesh::identity::SpiffeId;
use crate::mesh::shared::Shared;
pub use crate::mesh::uid::WorkloadUid;

/// A Pod as the mesh sees it. There may be a hundred thousand: what those of one template say alike is there once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Never reused, so that a new pod with an old address is another workload.
    pub uid: WorkloadUid,
    /// Of a static pod the hash of its manifest, which its kubelet takes for its uid; the API server knows its mirror by
    /// another.
    pub static_hash: Option<Arc<str>>,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name` of the Pod.
    pub pod_name: Arc<str>,
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// `spec.nodeName`; empty while the pod is not scheduled.
    pub node: Arc<str>,
    /// Who the workload is when it speaks mTLS.
    pub identity: SpiffeId,
    /// `status.podIPs`, at most one of each family, the primary first.
    pub addrs: Vec<IpAddr>,
    /// `spec.hostNetwork`: its addresses are the node's, so no address tells it from its neighbours.
    pub host_network: bool,
    /// `metadata.labels`, for selectors.
    pub labels: Shared<BTreeMap<String, String>>,
    /// The names that metrics show.
    pub naming: Shared<WorkloadNaming>,
    /// Named container ports, for policies and `targetPort` by name: (name, port).
    pub ports: Shared<Vec<(String, u16)>>,
    /// The ports that its probes and HTTP lifecycle hooks name: plaintext from the pod's own node is let in there.
    pub probe_ports: Shared<BTreeSet<u16>>,
    /// What its annotations take out of the mesh.
    pub exclusions: Shared<Exclusions>,
    /// Whether the pod takes part in the mesh.
    pub membership: Membership,
    /// Where the pod lives on this machine, when its manifest says so.
    pub placement: Option<Box<Placement>>,
    /// Whether it takes traffic: `status.conditions` of type `Ready`; without such a condition it does.
    pub is_ready: bool,
    /// Whether it is being deleted: `metadata.deletionTimestamp` is set.
    pub is_terminating: bool,
    /// What becomes of its new connections while the agent is dead.
    pub fail_mode: FailMode,
    /// Annotation `mesh-agent.dev/dns-capture` of the Pod, else of its Namespace; without either the agent's setting
    /// counts.
    pub dns_capture: Option<bool>,
}

/// Annotation `mesh-agent.dev/fail-mode`: what becomes of a pod's new connections while no agent lives on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FailMode {
    /// They are refused.
    #[default]
    Closed,
    /// They go on as without a mesh, in plaintext and under no policy, and are counted.
    Open,
}

/// How Istio's metric labels name a workload (`telemetry.md` 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct WorkloadNaming {
    /// The owner: Deployment (ReplicaSet hash cut off), `StatefulSet`, DaemonSet, Job, or the pod itself.
    pub workload: Arc<str>,
    /// Label `app`, or empty.
    pub app: Arc<str>,
    /// Label `version`, or empty.
    pub version: Arc<str>,
    /// `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else the workload.
    pub canonical_name: Arc<str>,
    /// `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`, else `latest`.
    pub canonical_revision: Arc<str>,
}

/// Whether a pod takes part in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Membership {
    /// Its namespace is labelled `mesh-agent.dev/dataplane: enabled` and the pod does not opt out.
    Enrolled,
    /// Known, but its traffic is not captured: peers speak plaintext with it.
    Outside,
}

/// Where a pod that no kubelet manages lives on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Annotation `mesh-agent.dev/netns`: path of the network namespace, for instance `/run/netns/pod-a`.
    pub netns: PathBuf,
    /// Annotation `mesh-agent.dev/cgroup`: absolute path of the pod's cgroup v2 directory.
    pub cgroup: PathBuf,
}

impl Workload {
    /// The uid that its kubelet names its cgroup by, and that a CNI plugin is given.
    pub fn kubelet_uid(&self) -> Cow<'_, str> {
        match &self.static_hash {
            Some(hash) => Cow::Borrowed(hash),
            None => Cow::Owned(self.uid.to_string()),
        }
    }

    /// Whether peers must speak mTLS with this workload's agent.
    pub fn is_enrolled(&self) -> bool {
        self.membership == Membership::Enrolled
    }

    /// Whether connections to one of its ports go through its agent; the others its application takes itself.
    pub fn is_meshed_at(&self, port: u16) -> bool {
        self.is_enrolled() && !self.exclusions.inbound_ports.contains(&port)
    }
}

/// Workloads for the tests of this crate.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    /// An enrolled pod of node `node-a` without addresses or labels, whose uid is `NAMESPACE/NAME`.
    pub(crate) fn pod(namespace: &str, name: &str) -> Workload {
        Workload {
            uid: WorkloadUid::new(&format!("{namespace}/{name}")),
            static_hash: None,
            namespace: namespace.into(),
            pod_name: name.into(),
            meta: Arc::new(ObjectMeta {
                origin: "test".into(),
                object: format!("Pod {namespace}/{name}").into(),
                created: None,
            }),
            node: "node-a".into(),
            identity: SpiffeId::new("cluster.local", namespace, "default").unwrap(),
            addrs: Vec::new(),
            host_network: false,
            labels: BTreeMap::new().into(),
            naming: WorkloadNaming::default().into(),
            ports: Vec::new().into(),
            probe_ports: BTreeSet::new().into(),
            exclusions: Exclusions::default().into(),
            membership: Membership::Enrolled,
            placement: None,
            is_ready: true,
            is_terminating: false,
            fail_mode: FailMode::Closed,
            dns_capture: None,
        }
    }
}
