//! What clients notice of faults: an API server that is away, an agent that is killed meanwhile, a right that is missing.
//!
//! It must not know how agents keep what they were told.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Claim, claims, load, seen};
use crate::cluster::{Cluster, NODES};
use crate::kubernetes::api::at;
use nix::sys::signal::Signal;

pub(super) const CLAIMS: &[Claim] = claims![
    while_the_api_server_is_away_no_request_fails_and_a_killed_agent_sends_no_plaintext,
    a_right_that_is_missing_is_named_and_the_rest_goes_on,
];

const APPLICATION: &str = include_str!("../../../lab/cluster/faults.yaml");
const CLIENTS: &str = include_str!("../../../lab/cluster/faults-clients.yaml");
const NAMESPACE: &str = "faults";
const SECRET: &str = "open-sesame";
/// Whose agent is killed.
const NODE: &str = "node-b";
/// For how long the API server is away at least, under load.
const AWAY_SECONDS: f64 = 20.0;

fn while_the_api_server_is_away_no_request_fails_and_a_killed_agent_sends_no_plaintext(
    cluster: &Cluster,
) -> Result<()> {
    load::bring(cluster)?;
    cluster.apply_text(APPLICATION)?;
    for servers in ["deployment/web", "deployment/far"] {
        cluster.rollout(NAMESPACE, servers)?;
    }
    cluster.apply_text(CLIENTS)?;
    in_namespace(
        cluster,
        &[
            "wait",
            "--for=condition=Ready",
            "pod/load",
            "pod/asks",
            "--timeout=120s",
        ],
    )?;
    seen::until("a client is served", || served_since(cluster, 0.0))?;
    cluster.plane().kill_api_server()?;
    let seen_away = away(cluster);
    // Whatever was seen: the claims after this one need it.
    cluster.plane().start_api_server()?;
    seen_away?;
    // Not before: the CA asks the API server whose pod it is that a certificate is for.
    let back = uptime()?;
    seen::until("the pods of the killed agent are served", || {
        served_since(cluster, back)
    })?;
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    in_namespace(cluster, &["wait", ended, "pod/load", "--timeout=120s"])?;
    let said = in_namespace(cluster, &["logs", "load"])?;
    let (done, failed) = load::counted(&said)?;
    ensure!(done >= 200, "no load worth the name: {said}");
    ensure!(failed == 0, "{failed} of {done} requests failed: {said}");
    for node in NODES {
        seen::until(&format!("the agent of {node} hears of all changes"), || {
            Ok(age(cluster, node)? == 0.0)
        })?;
    }
    is_taken_up(cluster, "after")
}

/// What is to be seen while there is no API server.
fn away(cluster: &Cluster) -> Result<()> {
    for node in NODES {
        seen::until(&format!("the configuration of {node} gets old"), || {
            Ok(age(cluster, node)? >= AWAY_SECONDS)
        })?;
        ensure!(seen::is_ready(cluster, node), "the agent of {node} is not ready");
    }
    seen::until("the load ends", || {
        Ok(seen::process(cluster, NODES[0], "h2load")?.is_none())
    })?;
    let wire = cluster.capture("killed", "tcp port 8080 and net 10.244.0.0/16")?;
    let now = uptime()?;
    seen::until("the capture sees a request", || served_since(cluster, now))?;
    let killed = seen::process(cluster, NODE, "mesh-agent run")?.context("no agent to kill")?;
    killed.signal(Signal::SIGKILL)?;
    seen::until("the next agent is ready", || {
        let next = seen::process(cluster, NODE, "mesh-agent run")?;
        Ok(next.is_some_and(|next| next != killed) && seen::is_ready(cluster, NODE))
    })?;
    let status = seen::status(cluster, NODE)?;
    ensure!(
        at(&status, "/api_server/copy_unix_s").is_u64(),
        "it does not say that it serves from a copy: {}",
        at(&status, "/api_server")
    );
    let wire = wire.stop()?;
    ensure!(
        wire.tls_packets + wire.unjudged_packets > 0,
        "nothing was seen between the nodes: {wire:?}"
    );
    ensure!(
        wire.plaintext_packets == 0 && !wire.contains(SECRET.as_bytes()),
        "plaintext between the nodes: {wire:?}"
    );
    Ok(())
}

/// Agents that begin may not read HTTP routes: they say so, and all else is as it was.
fn a_right_that_is_missing_is_named_and_the_rest_goes_on(cluster: &Cluster) -> Result<()> {
    let api = cluster.plane().api();
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/mesh-agent";
    let role = api.get(path)?.success()?;
    let rules = at(&role, "/rules").clone();
    api.patch(path, &json!({ "rules": without(&rules, "httproutes") }))?;
    let named = is_named(cluster);
    api.patch(path, &json!({ "rules": rules }))?;
    named?;
    seen::until("the right is used once it is there", || {
        Ok(watch(cluster, "HTTPRoute")?.0 == "watching" && age(cluster, NODE)? == 0.0)
    })
}

fn is_named(cluster: &Cluster) -> Result<()> {
    let killed = seen::process(cluster, NODE, "mesh-agent run")?.context("no agent to kill")?;
    killed.signal(Signal::SIGKILL)?;
    seen::until("the next agent names what it may not read", || {
        let next = seen::process(cluster, NODE, "mesh-agent run")?;
        if next.is_none_or(|next| next == killed) || !seen::is_ready(cluster, NODE) {
            return Ok(false);
        }
        let (state, error) = watch(cluster, "HTTPRoute")?;
        Ok(state == "failing" && error.contains("httproutes") && error.contains("forbidden"))
    })?;
    let (state, _) = watch(cluster, "Service")?;
    ensure!(state == "watching", "Services are {state}");
    is_taken_up(cluster, "denied")
}

/// A Service that comes now is served: no way but the mesh leads to a server that is STRICT.
fn is_taken_up(cluster: &Cluster, name: &str) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    });
    cluster.apply_text(&service.to_string())?;
    let addr = in_namespace(
        cluster,
        &["get", "service", name, "--output=jsonpath={.spec.clusterIP}"],
    )?;
    let script = format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {} 80 || true",
        addr.trim()
    );
    seen::until(&format!("the Service {name} is served"), || {
        Ok(cluster
            .exec(NAMESPACE, "asks", &["sh", "-c", &script])?
            .contains(" 200 "))
    })
}

/// The rules of a role without those about one resource.
fn without(rules: &Value, resource: &str) -> Value {
    let mut rules = rules.clone();
    for rule in rules.as_array_mut().into_iter().flatten() {
        if let Some(resources) = rule.get_mut("resources").and_then(Value::as_array_mut) {
            resources.retain(|known| known != resource);
        }
    }
    rules
}

/// How the watch of a kind stands with the agent of [`NODE`], and why it fails.
fn watch(cluster: &Cluster, kind: &str) -> Result<(String, String)> {
    let status = seen::status(cluster, NODE)?;
    let watches = at(&status, "/api_server/watches").as_array().cloned();
    let watches = watches.context("the status page has no watches")?;
    let found = watches.iter().find(|watch| at(watch, "/watch") == kind);
    let found = found.with_context(|| format!("nothing of {kind} in {watches:?}"))?;
    let text = |pointer| at(found, pointer).as_str().unwrap_or_default().to_owned();
    Ok((text("/state"), text("/error")))
}

/// For how many seconds the agent of a node may have missed changes.
fn age(cluster: &Cluster, node: &str) -> Result<f64> {
    Ok(seen::metrics(cluster, node)?.sum("mesh_config_age_seconds", &[]))
}

/// Whether a request that the client on [`NODE`] sent after a moment was answered; its log is on the node.
fn served_since(cluster: &Cluster, moment: f64) -> Result<bool> {
    let logs = cluster
        .site()
        .run_dir()
        .join("nodes")
        .join(NODE)
        .join("var/log/pods");
    let mut text = String::new();
    for pod in fs::read_dir(&logs).with_context(|| logs.display().to_string())? {
        let pod = pod.with_context(|| logs.display().to_string())?;
        if pod
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{NAMESPACE}_asks_"))
        {
            let log = pod.path().join("main/0.log");
            text.push_str(&fs::read_to_string(&log).with_context(|| log.display().to_string())?);
        }
    }
    Ok(text
        .lines()
        .any(|line| answered_at(line).is_some_and(|at| at > moment)))
}

/// When the request was sent that a line of the client's log says was answered: `TIME stdout F SECONDS ok`.
fn answered_at(line: &str) -> Option<f64> {
    let mut words = line.strip_suffix(" ok")?.rsplit(' ');
    words.next()?.parse().ok()
}

/// Seconds since the machine's start, as pods see them too.
fn uptime() -> Result<f64> {
    let text = fs::read_to_string("/proc/uptime").context("/proc/uptime")?;
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse().ok());
    seconds.context("/proc/uptime has no number")
}

fn in_namespace(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_that_were_answered_are_read_from_the_clients_log() {
        assert_eq!(
            answered_at("2026-11-22T02:00:00.1Z stdout F 123.45 ok"),
            Some(123.45)
        );
        assert_eq!(answered_at("2026-11-22T02:00:00.1Z stdout F 123.45 failed"), None);
    }

    #[test]
    fn a_right_is_taken_from_every_rule() {
        let rules = json!([{ "resources": ["pods", "httproutes"] }, { "resources": ["httproutes"] }]);
        assert_eq!(
            without(&rules, "httproutes"),
            json!([{ "resources": ["pods"] }, { "resources": [] }])
        );
    }
}
