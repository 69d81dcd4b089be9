//! What a cluster does without any mesh: without this, nothing that is claimed of the mesh means anything.

use anyhow::{Context, Result, ensure};

use super::{Claim, claims};
use crate::cluster::{Cluster, NODES, Pod};

pub(super) const CLAIMS: &[Claim] = claims![
    a_deployment_with_probes_and_a_daemonset_get_ready,
    services_have_names_on_both_nodes,
    pods_reach_pods_of_both_nodes,
    the_address_of_a_service_leads_to_its_pods_from_both_nodes,
];

const APPLICATION: &str = include_str!("../../../lab/cluster/smoke.yaml");
const NAMESPACE: &str = "smoke";

fn a_deployment_with_probes_and_a_daemonset_get_ready(cluster: &Cluster) -> Result<()> {
    cluster.apply_text(APPLICATION)?;
    cluster.rollout(NAMESPACE, "deployment/web")?;
    cluster.rollout(NAMESPACE, "daemonset/everywhere")?;
    let servers = cluster.pods(NAMESPACE, "app=web")?;
    for node in NODES {
        ensure!(
            servers.iter().any(|pod| pod.node == node),
            "no server on {node}: {servers:?}"
        );
    }
    Ok(())
}

fn services_have_names_on_both_nodes(cluster: &Cluster) -> Result<()> {
    let addr = service(cluster)?;
    for client in clients(cluster)? {
        let said = cluster.exec(
            NAMESPACE,
            &client.name,
            &["nslookup", "web.smoke.svc.cluster.local"],
        )?;
        ensure!(said.contains(&addr), "{}: no {addr} in {said}", client.node);
    }
    Ok(())
}

fn pods_reach_pods_of_both_nodes(cluster: &Cluster) -> Result<()> {
    for client in clients(cluster)? {
        for server in cluster.pods(NAMESPACE, "app=web")? {
            fetch(cluster, &client, &server.addr, "8080")
                .with_context(|| format!("from {} to {}", client.node, server.node))?;
        }
    }
    Ok(())
}

fn the_address_of_a_service_leads_to_its_pods_from_both_nodes(cluster: &Cluster) -> Result<()> {
    let addr = service(cluster)?;
    for client in clients(cluster)? {
        // Endpoints are chosen at random: eight times the same one of two is one chance in 128, and harmless.
        for _ in 0..8 {
            fetch(cluster, &client, &addr, "80").with_context(|| format!("from {}", client.node))?;
        }
    }
    Ok(())
}

pub(super) fn fetch(cluster: &Cluster, client: &Pod, addr: &str, port: &str) -> Result<()> {
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 10 {addr} {port}");
    let said = cluster.exec(NAMESPACE, &client.name, &["sh", "-c", &ask])?;
    ensure!(said.contains("200 OK"), "{addr}:{port} answers {said:?}");
    Ok(())
}

/// A pod on each node.
fn clients(cluster: &Cluster) -> Result<Vec<Pod>> {
    let pods = cluster.pods(NAMESPACE, "app=everywhere")?;
    ensure!(pods.len() == NODES.len(), "not one on each node: {pods:?}");
    Ok(pods)
}

fn service(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&[
        "get",
        "service",
        "web",
        "--namespace",
        NAMESPACE,
        "--output",
        "jsonpath={.spec.clusterIP}",
    ])
}
