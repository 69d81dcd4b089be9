//! What the programs of a node are configured with.
//!
//! It must not start them, and knows the paths of the node's own file system only.

use serde_json::{Value, json};

use super::wires::Wired;
use crate::kubernetes::User;

/// The image of the process that holds a pod's namespaces.
pub(super) const PAUSE: &str = "localhost/pause:lab";
/// Where containerd listens.
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The address of the cluster's DNS.
pub(super) const DNS: &str = "10.96.0.10";

/// The node as the API server knows it.
pub(super) fn user(node: &str) -> User {
    User {
        file: node.to_owned(),
        name: format!("system:node:{node}"),
        group: "system:nodes".to_owned(),
    }
}

/// The programs that are no node but known to the API server; the roles of their names are its own.
pub(super) fn components() -> impl Iterator<Item = User> {
    ["kube-controller-manager", "kube-scheduler", "kube-proxy"]
        .into_iter()
        .map(|name| User {
            file: name.to_owned(),
            name: format!("system:{name}"),
            group: "system:authenticated".to_owned(),
        })
}

/// containerd's configuration, `/etc/containerd/config.toml`.
pub(super) fn containerd(runc: &str) -> String {
    format!(
        "version = 3\n\
         [grpc]\naddress = '{CONTAINERD}'\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{PAUSE}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\n\
         # The machine may not let anybody lower an oom score.\n\
         restrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/opt/cni/bin']\nconf_dir = '/etc/cni/net.d'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n\
         BinaryName = '{runc}'\nSystemdCgroup = false\n"
    )
}

/// The pods' network, `/etc/cni/net.d/10-bridge.conflist`.
pub(super) fn cni(node: Wired) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "bridge",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": format!("{}/24", node.pods()) }]],
                },
            },
            { "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } },
        ],
    })
}

/// Where the kubelet looks for pods of the node's own.
pub(super) const STATIC_PODS: &str = "/etc/kubernetes/manifests";

/// The kubelet's configuration; JSON is YAML.
pub(super) fn kubelet(node: Wired, cgroup_root: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.addr().to_string(),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": "/etc/kubernetes/ca.crt" },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "enforceNodeAllocatable": [],
        // A full disk of the machine is no reason to evict pods that are there for minutes.
        "evictionHard": { "memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%",
            "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%" },
        "failCgroupV1": false,
        "failSwapOn": false,
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": false,
        "makeIPTablesUtilChains": false,
        "maxPods": 120,
        "nodeStatusUpdateFrequency": "4s",
        "oomScoreAdj": 0,
        // They are the machine's; what the kubelet would make of them is shown to it in their place.
        "protectKernelDefaults": true,
        "readOnlyPort": 0,
        "registryPullQPS": 0,
        "resolvConf": "/etc/resolv.conf",
        "serializeImagePulls": false,
        "staticPodPath": STATIC_PODS,
    })
}

/// Kernel settings that the kubelet demands, as it wants to read them below `/proc/sys`.
pub(super) const KERNEL: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// kube-proxy's configuration.
pub(super) fn kube_proxy(node: Wired) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": node.addr().to_string(),
        "clientConnection": { "kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig" },
        "clusterCIDR": "10.244.0.0/16",
        "hostnameOverride": node.name,
        "mode": "nftables",
        // Limits of connection tracking are the machine's.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "nftables": { "minSyncPeriod": "0s", "syncPeriod": "30s" },
    })
}
