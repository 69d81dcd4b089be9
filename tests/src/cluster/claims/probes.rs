//! Probes that need a server of their own: the kubelet's gRPC probe, on a pod that takes no plaintext from anybody else.
//!
//! Place in the walk: none, the kubelet's way past STRICT as a user sees it. It must not know how the agent lets it pass.

use anyhow::{Context, Result, ensure};

use super::{Claim, claims, seen};
use crate::cluster::Cluster;
use crate::cluster::image::Image;
use crate::kubernetes::api::at;

pub(super) const CLAIMS: &[Claim] = claims![grpc_probes_of_a_captured_pod_stay_green_under_strict];

const APPLICATION: &str = include_str!("../../../lab/cluster/probed.yaml");
const NAMESPACE: &str = "probed";
const POD: &str = "health";

fn grpc_probes_of_a_captured_pod_stay_green_under_strict(cluster: &Cluster) -> Result<()> {
    let etcd = Image::new("localhost/etcd:lab", &["/etcd"])?;
    cluster.load("etcd", &etcd.with(&cluster.program("etcd"), "/etcd"))?;
    cluster.apply_text(APPLICATION)?;
    for (namespace, pod) in [(NAMESPACE, POD), ("default", "asks")] {
        let pod = format!("pod/{pod}");
        let asked = ["wait", "--for=condition=Ready", &pod, "--timeout=120s"];
        cluster.kubectl(&[asked.as_slice(), &["--namespace", namespace]].concat())?;
    }
    let before = answered(cluster)?;
    seen::until("the pod is asked by gRPC again and again", || {
        Ok(answered(cluster)? >= before + 10)
    })?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{POD}");
    let pod = cluster.plane().api().get(&path)?.success()?;
    let containers = at(&pod, "/status/containerStatuses").as_array().cloned();
    for container in containers.context("no containers")? {
        ensure!(
            at(&container, "/ready") == true && at(&container, "/restartCount") == 0,
            "a probe has failed: {container}"
        );
    }
    let addr = at(&pod, "/status/podIP")
        .as_str()
        .context("no address")?
        .to_owned();
    // The same port, asked by anybody else: what says nothing of STRICT says nothing of probes.
    let script = format!("printf 'GET /version HTTP/1.0\\r\\n\\r\\n' | nc -w 10 {addr} 2379 || true");
    let said = cluster.exec("default", "asks", &["sh", "-c", &script])?;
    ensure!(said.is_empty(), "a stranger is answered: {said:?}");
    Ok(())
}

/// How many questions of gRPC's health service the pod has answered well; asked for by the pod itself, past the mesh.
fn answered(cluster: &Cluster) -> Result<u64> {
    let script = "wget -q -O - http://127.0.0.1:2379/metrics | grep '^grpc_server_handled_total'";
    let asked = ["exec", "--namespace", NAMESPACE, POD, "--container=beside", "--"];
    let said = cluster.kubectl(&[asked.as_slice(), &["sh", "-c", script]].concat())?;
    let checks = said.lines().find(|line| {
        line.contains("grpc.health.v1.Health")
            && line.contains("grpc_method=\"Check\"")
            && line.contains("grpc_code=\"OK\"")
    });
    let count = checks
        .and_then(|line| line.rsplit_once(' '))
        .map_or("0", |(_, count)| count);
    count.trim().parse().with_context(|| format!("no count: {said}"))
}
