//! What the mesh does on real nodes: pods enrolled as the kubelet makes them, probes, STRICT, and TLS between the nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Claim, claims};
use crate::cluster::{Cluster, NODES, Pod};
use crate::kubernetes::api::at;
use crate::process;

pub(super) const CLAIMS: &[Claim] = claims![
    pods_of_an_enrolled_namespace_are_captured_on_their_nodes,
    probes_of_captured_pods_stay_green_under_strict,
    a_stranger_gets_no_answer_under_strict,
    pods_of_both_nodes_talk_and_the_wire_shows_tls_alone,
];

const APPLICATION: &str = include_str!("../../../lab/cluster/meshed.yaml");
const NAMESPACE: &str = "meshed";
const SECRET: &str = "open-sesame";

fn pods_of_an_enrolled_namespace_are_captured_on_their_nodes(cluster: &Cluster) -> Result<()> {
    cluster.apply_text(APPLICATION)?;
    cluster.rollout(NAMESPACE, "deployment/web")?;
    cluster.rollout(NAMESPACE, "daemonset/everywhere")?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s"])?;
    let mut wanted = cluster.pods(NAMESPACE, "app=web")?;
    wanted.extend(cluster.pods(NAMESPACE, "app=everywhere")?);
    ensure!(
        wanted.len() == 2 * NODES.len(),
        "not two on each node: {wanted:?}"
    );
    for pod in wanted {
        until(&format!("{} of {} is enrolled", pod.name, pod.node), || {
            let status = status(cluster, &pod.node)?;
            let pods = at(&status, "/enrolment/pods")
                .as_array()
                .cloned()
                .unwrap_or_default();
            let own = pods
                .iter()
                .find(|known| at(known, "/namespace") == NAMESPACE && at(known, "/pod") == pod.name.as_str());
            Ok(own.is_some_and(|own| at(own, "/present") == true && at(own, "/why_not").is_null()))
        })?;
    }
    Ok(())
}

fn probes_of_captured_pods_stay_green_under_strict(cluster: &Cluster) -> Result<()> {
    for pod in cluster.pods(NAMESPACE, "app=web")? {
        let before = answered(cluster, &pod)?;
        until(&format!("{} is probed again and again", pod.name), || {
            Ok(answered(cluster, &pod)? >= before + 5)
        })?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", pod.name);
        let seen = cluster.plane().api().get(&path)?.success()?;
        let containers = at(&seen, "/status/containerStatuses")
            .as_array()
            .cloned()
            .unwrap_or_default();
        ensure!(containers.len() == 2, "{}: {containers:?}", pod.name);
        for container in containers {
            ensure!(
                at(&container, "/ready") == true && at(&container, "/restartCount") == 0,
                "a probe has failed: {container}"
            );
        }
    }
    Ok(())
}

fn a_stranger_gets_no_answer_under_strict(cluster: &Cluster) -> Result<()> {
    for server in cluster.pods(NAMESPACE, "app=web")? {
        let said = ask(cluster, ("default", "stranger"), &server.addr)?;
        ensure!(said.is_empty(), "the server of {} answers {said:?}", server.node);
    }
    Ok(())
}

fn pods_of_both_nodes_talk_and_the_wire_shows_tls_alone(cluster: &Cluster) -> Result<()> {
    let capture = cluster.capture("meshed", "tcp port 8080 and net 10.244.0.0/16")?;
    let servers = cluster.pods(NAMESPACE, "app=web")?;
    for client in cluster.pods(NAMESPACE, "app=everywhere")? {
        for server in &servers {
            let said = ask(cluster, (NAMESPACE, &client.name), &server.addr)?;
            ensure!(
                said.contains("200 OK"),
                "from {} to {}: {said:?}",
                client.node,
                server.node
            );
        }
    }
    let wire = capture.stop()?;
    ensure!(
        wire.tls_packets > 0,
        "nothing was seen between the nodes: {wire:?}"
    );
    ensure!(
        wire.plaintext_packets == 0 && !wire.contains(SECRET.as_bytes()),
        "plaintext between the nodes: {wire:?}"
    );
    Ok(())
}

/// What a server says to a request with the secret in it; nothing where it ends the connection.
fn ask(cluster: &Cluster, (namespace, client): (&str, &str), server: &str) -> Result<String> {
    let request = format!("printf 'GET / HTTP/1.0\\r\\nx-secret: {SECRET}\\r\\n\\r\\n'");
    // A connection that is refused or reset is no failure of the shell.
    let script = format!("{request} | nc -w 10 {server} 8080 || true");
    cluster.exec(namespace, client, &["sh", "-c", &script])
}

/// How many requests the web server of a pod has answered with success.
fn answered(cluster: &Cluster, pod: &Pod) -> Result<usize> {
    let logs = cluster.kubectl(&["logs", "--namespace", NAMESPACE, &pod.name, "--container", "web"])?;
    Ok(logs.matches("response:200").count())
}

/// The status page of a node's agent.
fn status(cluster: &Cluster, node: &str) -> Result<Value> {
    let agents = cluster.pods("mesh-system", "app.kubernetes.io/name=mesh-agent")?;
    let agent = agents.iter().find(|agent| agent.node == node);
    let agent = agent.with_context(|| format!("no agent on {node}: {agents:?}"))?;
    let page = cluster.exec(
        "mesh-system",
        &agent.name,
        &["/usr/local/bin/mesh-agent", "status", "--output", "json"],
    )?;
    serde_json::from_str(&page).context("the status page")
}

fn until(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let held = process::wait_until(LIMIT, || Ok(holds()?.then_some(())))?;
    held.with_context(|| format!("it does not come to pass within {LIMIT:?}: {what}"))
}

const LIMIT: Duration = Duration::from_mins(2);
