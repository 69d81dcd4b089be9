//! What clients notice while an application changes: pods that begin, are replaced, come in numbers and leave a node.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use super::{Claim, claims, load, seen};
use crate::cluster::Cluster;
use crate::kubernetes::api::at;
use crate::process;

pub(super) const CLAIMS: &[Claim] = claims![
    a_hundred_pods_that_dial_at_once_are_captured_from_the_first_packet,
    a_rolling_update_a_scaling_a_moved_port_and_a_drain_fail_no_request,
];

const STARTS: &str = include_str!("../../../lab/cluster/starts.yaml");
const ROLLING: &str = include_str!("../../../lab/cluster/rolling.yaml");

fn a_hundred_pods_that_dial_at_once_are_captured_from_the_first_packet(cluster: &Cluster) -> Result<()> {
    cluster.apply_text(STARTS)?;
    let path = "/apis/batch/v1/namespaces/meshed/jobs/starts";
    let count = |field: &str| -> Result<u64> {
        let job = cluster.plane().api().get(path)?.success()?;
        Ok(at(&job, &format!("/status/{field}")).as_u64().unwrap_or_default())
    };
    let ended = process::wait_until(STARTS_LIMIT, || Ok((count("succeeded")? >= 100).then_some(())))?;
    let failed = count("failed")?;
    ended.with_context(|| format!("{:?} of 100 have succeeded, {failed} failed", count("succeeded")))?;
    note(&UNCAPTURED, Some(failed));
    ensure!(failed == 0, "{failed} pods were refused beside 100 that were not");
    Ok(())
}

/// 500 requests a second from one pod, through both agents to some of the servers, for as long as it all takes.
fn a_rolling_update_a_scaling_a_moved_port_and_a_drain_fail_no_request(cluster: &Cluster) -> Result<()> {
    load::bring(cluster)?;
    cluster.apply_text(ROLLING)?;
    cluster.rollout(NAMESPACE, WEB)?;
    in_namespace(
        cluster,
        &["wait", "--for=condition=Ready", "pod/load", "--timeout=120s"],
    )?;
    let addr = in_namespace(
        cluster,
        &["get", "service", "web", "--output=jsonpath={.spec.clusterIP}"],
    )?;
    let url = format!("http://{}/", addr.trim());
    let is_over = AtomicBool::new(false);
    let (done, failed) = thread::scope(|scope| -> Result<(u64, u64)> {
        let load = scope.spawn(|| load::rounds(cluster, (NAMESPACE, "load"), load::STEADY, &url, &is_over));
        let changed = change(cluster);
        is_over.store(true, Ordering::Release);
        let counted = load.join().map_err(|_panic| anyhow!("the load panicked"))??;
        changed?;
        Ok(counted)
    })?;
    note(&FAILED, Some(failed));
    ensure!(done >= 1_000, "no load worth the name: {done} requests");
    ensure!(failed == 0, "{failed} of {done} requests failed");
    Ok(())
}

fn change(cluster: &Cluster) -> Result<()> {
    in_namespace(cluster, &["rollout", "restart", WEB])?;
    cluster.rollout(NAMESPACE, WEB)?;
    for replicas in ["--replicas=1", "--replicas=20", "--replicas=1", "--replicas=4"] {
        in_namespace(cluster, &["scale", WEB, replicas])?;
        cluster.rollout(NAMESPACE, WEB)?;
    }
    // Both are listened at: what the Service says decides alone.
    for port in [8081, 8080] {
        let ports = json!({ "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": port }] } });
        in_namespace(
            cluster,
            &["patch", "service", "web", "--patch", &ports.to_string()],
        )?;
        seen::until(&format!("the endpoints are at {port}"), || {
            Ok(ports_of(cluster)? == BTreeSet::from([port]))
        })?;
    }
    let drained = cluster.kubectl(&[
        "drain",
        "node-b",
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        "--pod-selector=app=rolling",
        "--timeout=60s",
    ]);
    cluster.kubectl(&["uncordon", "node-b"])?;
    drained?;
    cluster.rollout(NAMESPACE, WEB)
}

/// The ports of the Service's endpoints, each once.
fn ports_of(cluster: &Cluster) -> Result<BTreeSet<u64>> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    let slices = cluster.plane().api().get(&path)?.success()?;
    let slices = at(&slices, "/items").as_array().cloned().unwrap_or_default();
    let ports = slices
        .iter()
        .filter_map(|slice| at(slice, "/ports/0/port").as_u64());
    Ok(ports.collect())
}

fn in_namespace(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
}

/// How many of the pods that dial at once were not captured in time; none before that was tried to its end.
pub(super) fn uncaptured_starts() -> Option<u64> {
    noted(&UNCAPTURED)
}

/// How many requests failed while the application changed; none before that was tried to its end.
pub(super) fn failed_requests() -> Option<u64> {
    noted(&FAILED)
}

/// Nothing was tried yet in the cluster that is claimed of now.
pub(super) fn forget() {
    note(&UNCAPTURED, None);
    note(&FAILED, None);
}

fn note(count: &Count, found: Option<u64>) {
    *count.lock().unwrap_or_else(PoisonError::into_inner) = found;
}

fn noted(count: &Count) -> Option<u64> {
    *count.lock().unwrap_or_else(PoisonError::into_inner)
}

type Count = Mutex<Option<u64>>;

const NAMESPACE: &str = "rolling";
const WEB: &str = "deployment/web";
static UNCAPTURED: Count = Mutex::new(None);
static FAILED: Count = Mutex::new(None);
/// A pod takes a second of a busy machine.
const STARTS_LIMIT: Duration = Duration::from_mins(10);
