//! What clients notice while every agent is replaced by the next one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};

use super::{Claim, claims, load};
use crate::cluster::Cluster;

pub(super) const CLAIMS: &[Claim] = claims![all_agents_are_replaced_under_load_and_no_request_fails];

const APPLICATION: &str = include_str!("../../../lab/cluster/upgrade.yaml");

/// One client dials for each request, and another one keeps its connection for as long as the agents do.
fn all_agents_are_replaced_under_load_and_no_request_fails(cluster: &Cluster) -> Result<()> {
    load::bring(cluster)?;
    cluster.apply_text(APPLICATION)?;
    cluster.rollout(NAMESPACE, "deployment/web")?;
    let wait = ["wait", "--for=condition=Ready", "pod/load", "--timeout=120s"];
    in_namespace(cluster, &wait)?;
    let address = ["get", "service", "web", "--output=jsonpath={.spec.clusterIP}"];
    let url = format!("http://{}/", in_namespace(cluster, &address)?.trim());
    let is_over = AtomicBool::new(false);
    let counted = thread::scope(|scope| -> Result<Vec<(u64, u64)>> {
        let (url, is_over) = (&url, &is_over);
        let load = |how| scope.spawn(move || load::rounds(cluster, (NAMESPACE, "load"), how, url, is_over));
        let loads = [load::ALWAYS_NEW, load::KEPT].map(load);
        let replaced = replace(cluster);
        is_over.store(true, Ordering::Release);
        let counted = loads
            .into_iter()
            .map(|load| load.join().map_err(|_panic| anyhow!("the load panicked"))?)
            .collect::<Result<_>>();
        replaced?;
        counted
    })?;
    for (done, failed) in counted {
        ensure!(done >= 500, "no load worth the name: {done} requests");
        ensure!(failed == 0, "{failed} of {done} requests failed");
    }
    Ok(())
}

/// Twice: there and back, since agents of one node alternate between two pairs of ports.
fn replace(cluster: &Cluster) -> Result<()> {
    for _ in 0..2 {
        cluster.kubectl(&["--namespace", AGENTS, "rollout", "restart", AGENT])?;
        cluster.rollout(AGENTS, AGENT)?;
    }
    Ok(())
}

fn in_namespace(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
}

const NAMESPACE: &str = "upgrade";
const AGENTS: &str = "mesh-system";
const AGENT: &str = "daemonset/mesh-agent";
