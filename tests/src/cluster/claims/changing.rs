//! What clients notice while an application changes: pods that begin, are replaced, come in numbers and leave a node.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::{Claim, claims};
use crate::cluster::Cluster;
use crate::cluster::image::Image;
use crate::kubernetes::api::at;
use crate::process;

pub(super) const CLAIMS: &[Claim] = claims![
    a_hundred_pods_that_dial_at_once_are_captured_from_the_first_packet,
    a_rolling_update_a_scaling_and_a_drain_fail_no_request,
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
fn a_rolling_update_a_scaling_and_a_drain_fail_no_request(cluster: &Cluster) -> Result<()> {
    let load = Image::new("localhost/h2load:lab", &["/usr/bin/sleep", "2147483647"])?
        .with_program(Path::new("/usr/bin/h2load"), "/usr/bin/h2load")?
        .with_program(Path::new("/usr/bin/sleep"), "/usr/bin/sleep")?;
    cluster.load("h2load", &load)?;
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
    let said = thread::scope(|scope| -> Result<String> {
        let load = scope.spawn(|| {
            let load = [
                "h2load",
                "--h1",
                "--clients=10",
                "--rps=50",
                "--duration=75",
                &url,
            ];
            cluster.exec(NAMESPACE, "load", &load)
        });
        let changed = change(cluster);
        let is_under_load = !load.is_finished();
        let said = load.join().map_err(|_panic| anyhow!("the load panicked"))??;
        changed?;
        ensure!(is_under_load, "the load was over before the last change: {said}");
        Ok(said)
    })?;
    let (done, failed) = counted(&said).with_context(|| format!("no counts in {said}"))?;
    note(&FAILED, Some(failed));
    ensure!(done >= 10_000, "no load worth the name: {said}");
    ensure!(failed == 0, "{failed} of {done} requests failed: {said}");
    Ok(())
}

fn change(cluster: &Cluster) -> Result<()> {
    in_namespace(cluster, &["rollout", "restart", WEB])?;
    cluster.rollout(NAMESPACE, WEB)?;
    for replicas in ["--replicas=20", "--replicas=4"] {
        in_namespace(cluster, &["scale", WEB, replicas])?;
        cluster.rollout(NAMESPACE, WEB)?;
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

fn in_namespace(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
}

/// Requests that were done, and those of them that failed; answers other than 2xx among these.
fn counted(said: &str) -> Option<(u64, u64)> {
    let line = said.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let count = |what: &str| {
        let mut parts = line.split(", ");
        parts
            .find_map(|part| part.strip_suffix(what))
            .and_then(|count| count.trim().parse().ok())
    };
    Some((count(" done")?, count(" failed")?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_counts_is_read() {
        let said = "finished in 1s\nrequests: 90 total, 90 started, 90 done, 87 succeeded, 3 failed, 1 errored, 0 timeout\n";
        assert_eq!(counted(said), Some((90, 3)));
        assert_eq!(counted("nothing"), None);
    }
}
