//! An API server that is away, and an agent that is killed meanwhile: what pods of both nodes notice of it.
//!
//! It must not know how agents keep what they were told.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Claim, claims, seen};
use crate::cluster::{Cluster, NODES};
use crate::kubernetes::api::at;

pub(super) const CLAIMS: &[Claim] = claims![
    without_an_api_server_a_killed_agent_comes_back_and_nothing_goes_in_plaintext,
    a_right_that_is_missing_is_named_in_status_and_the_rest_goes_on,
];

const SERVERS: &str = include_str!("../../../lab/cluster/faults.yaml");
const CLIENT: &str = include_str!("../../../lab/cluster/faults-client.yaml");
const KEEPS: &str = include_str!("../../../lab/cluster/faults-kept.yaml");
const NAMESPACE: &str = "faults";
const SECRET: &str = "open-sesame";
/// Whose agent is killed while there is no API server; the other one's is not.
const KILLED: &str = "node-b";
const OTHER: &str = "node-a";

/// Who asks, from where, whom.
#[derive(Debug, Clone, Copy)]
struct Asker {
    node: &'static str,
    namespace: &'static str,
    name: &'static str,
    server: &'static str,
    port: u16,
}

/// Both on the node whose agent lives.
const NEAR: Asker = asker(OTHER, "asks-near", "near");
/// The server is on the node whose agent is killed.
const FAR: Asker = asker(OTHER, "asks-far", "far");
/// The client is.
const BACK: Asker = asker(KILLED, "asks-back", "near");
/// Outside of the mesh, and the server on the node whose agent is killed.
const STRANGER: Asker = Asker {
    namespace: "default",
    port: 82,
    ..asker(OTHER, "asks-strictly", "far")
};
/// Over one connection, on the node whose agent lives.
const KEPT: Asker = asker(OTHER, "keeps", "near");

const fn asker(node: &'static str, name: &'static str, server: &'static str) -> Asker {
    Asker {
        node,
        namespace: NAMESPACE,
        name,
        server,
        port: 80,
    }
}

fn without_an_api_server_a_killed_agent_comes_back_and_nothing_goes_in_plaintext(
    cluster: &Cluster,
) -> Result<()> {
    bring_servers(cluster)?;
    let addr = |label| -> Result<String> {
        let pods = cluster.pods(NAMESPACE, label)?;
        Ok(pods
            .first()
            .with_context(|| format!("no pod is {label}"))?
            .addr
            .clone())
    };
    // From the first packet on, and without the stranger, which asks at another port.
    let servers = [addr("app=near")?, addr("app=far")?].join(" or host ");
    let wire = cluster.capture("faults", &format!("tcp port 8080 and (host {servers})"))?;
    bring_clients(cluster)?;
    let gone = uptime()?;
    cluster.plane().kill_api_server()?;
    let held = is_served_without(cluster, gone);
    // Whatever was seen: the claims after this one need it.
    cluster.plane().start_api_server()?;
    held?;
    let back = uptime()?;
    for asker in [NEAR, FAR, BACK] {
        seen::until(&format!("{} is answered after it", asker.name), || {
            Ok(asker.answers(cluster, back)?.ok > 0)
        })?;
    }
    for node in NODES {
        seen::until(&format!("the agent of {node} hears of all changes"), || {
            let status = seen::status(cluster, node)?;
            Ok(at(&status, "/api_server/age_s") == 0 && at(&status, "/api_server/copy_unix_s").is_null())
        })?;
    }
    is_taken_up(cluster, "after")?;
    let (kept, stranger) = (KEPT.answers(cluster, back)?, STRANGER.answers(cluster, gone)?);
    ensure!(
        kept.ok > 0 && kept.failed == 0,
        "the connection that was kept has ended"
    );
    ensure!(
        stranger.ok == 0 && stranger.failed > 0,
        "a stranger: {stranger:?}"
    );
    let wire = wire.stop()?;
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

/// What is to be seen from the moment on from which there is no API server.
fn is_served_without(cluster: &Cluster, gone: f64) -> Result<()> {
    for node in NODES {
        seen::until(&format!("the agent of {node} says that it may be stale"), || {
            let status = seen::status(cluster, node)?;
            Ok(at(&status, "/api_server/age_s").as_u64() > Some(0))
        })?;
    }
    for asker in [NEAR, FAR, BACK] {
        seen::until(&format!("{} goes on", asker.name), || {
            Ok(asker.answers(cluster, gone)?.ok > 5)
        })?;
        let answers = asker.answers(cluster, gone)?;
        ensure!(
            answers.failed == 0,
            "{} without an API server: {answers:?}",
            asker.name
        );
    }
    let killed = seen::agent(cluster, KILLED)?;
    let dead = uptime()?;
    killed.signal(Signal::SIGKILL)?;
    is_replaced(cluster, KILLED, killed)?;
    let status = seen::status(cluster, KILLED)?;
    ensure!(
        at(&status, "/api_server/copy_unix_s").is_u64(),
        "it does not say that it serves from a copy: {}",
        at(&status, "/api_server")
    );
    let next = uptime()?;
    for asker in [FAR, BACK] {
        seen::until(&format!("{} is answered again", asker.name), || {
            Ok(asker.answers(cluster, next)?.ok > 0)
        })?;
    }
    for asker in [NEAR, KEPT] {
        seen::until(&format!("{} goes on beside a killed agent", asker.name), || {
            Ok(asker.answers(cluster, next)?.ok > 0)
        })?;
        let answers = asker.answers(cluster, gone)?;
        ensure!(
            answers.failed == 0,
            "{} beside a killed agent: {answers:?}",
            asker.name
        );
    }
    ensure!(
        STRANGER.answers(cluster, dead)?.failed > 0,
        "the stranger has not asked since the agent was killed"
    );
    Ok(())
}

/// One agent may not read HTTP routes as it begins: it says so, and all else is as it was.
fn a_right_that_is_missing_is_named_in_status_and_the_rest_goes_on(cluster: &Cluster) -> Result<()> {
    bring_servers(cluster)?;
    bring_clients(cluster)?;
    let api = cluster.plane().api();
    let role = api.get(ROLE)?.success()?;
    let rules = at(&role, "/rules").clone();
    api.patch(ROLE, &json!({ "rules": without(&rules, "httproutes") }))?;
    let named = is_named(cluster);
    api.patch(ROLE, &json!({ "rules": rules }))?;
    named?;
    seen::until("status says nothing of it any more", || {
        Ok(!printed_status(cluster)?.contains("httproutes") && watch(cluster, "HTTPRoute")?.0 == "watching")
    })?;
    cluster.kubectl(&[
        "delete",
        "pod",
        "--namespace=default",
        "--selector=app=asks",
        "--wait=false",
    ])?;
    cluster
        .kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"])
        .map(drop)
}

fn is_named(cluster: &Cluster) -> Result<()> {
    let killed = seen::agent(cluster, OTHER)?;
    killed.signal(Signal::SIGKILL)?;
    is_replaced(cluster, OTHER, killed)?;
    seen::until("status names what it may not read", || {
        let (state, error) = watch(cluster, "HTTPRoute")?;
        Ok(state == "failing" && error.contains("cannot list resource \"httproutes\""))
    })?;
    let said = printed_status(cluster)?;
    ensure!(
        said.contains("cannot list resource \"httproutes\""),
        "it does not print it: {said}"
    );
    let (state, _) = watch(cluster, "Service")?;
    ensure!(state == "watching", "Services are {state}");
    let now = uptime()?;
    for asker in [NEAR, FAR, BACK] {
        seen::until(&format!("{} is answered without the right", asker.name), || {
            Ok(asker.answers(cluster, now)?.ok > 0)
        })?;
    }
    is_taken_up(cluster, "denied")
}

/// Another process than `killed` is the agent of a node, and ready.
fn is_replaced(cluster: &Cluster, node: &str, killed: crate::process::ProcessId) -> Result<()> {
    seen::until("the next agent is ready", || {
        let agents = seen::processes(cluster, node, "/usr/local/bin/mesh-agent run")?;
        Ok(!agents.is_empty() && !agents.contains(&killed) && seen::is_ready(cluster, node))
    })
}

fn bring_servers(cluster: &Cluster) -> Result<()> {
    cluster.apply_text(SERVERS)?;
    let wait = [
        "wait",
        "--for=condition=Ready",
        "pod/near",
        "pod/far",
        "--timeout=120s",
    ];
    in_namespace(cluster, &wait).map(drop)
}

/// Clients; returns when all but the stranger are answered.
fn bring_clients(cluster: &Cluster) -> Result<()> {
    let mut manifests = Vec::new();
    for asker in [NEAR, FAR, BACK, STRANGER] {
        manifests.push(asker.manifest(CLIENT, cluster)?);
    }
    manifests.push(KEPT.manifest(KEEPS, cluster)?);
    cluster.apply_text(&manifests.join("---\n"))?;
    for namespace in [NAMESPACE, "default"] {
        let wait = [
            "wait",
            "--for=condition=Ready",
            "pod",
            "--selector=app=asks",
            "--timeout=120s",
        ];
        cluster.kubectl(&[["--namespace", namespace].as_slice(), &wait].concat())?;
    }
    for asker in [NEAR, FAR, BACK, KEPT] {
        seen::until(&format!("{} is answered", asker.name), || {
            Ok(asker.answers(cluster, 0.0)?.ok > 0)
        })?;
    }
    Ok(())
}

/// A Service that comes now is served: no way but the mesh leads to a server that is STRICT.
fn is_taken_up(cluster: &Cluster, name: &str) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "selector": { "app": "far" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    });
    cluster.apply_text(&service.to_string())?;
    let addr = addr_of(cluster, name)?;
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {addr} 80 || true");
    seen::until(&format!("the Service {name} is served"), || {
        let said = cluster.exec(NAMESPACE, NEAR.name, &["sh", "-c", &script])?;
        Ok(said.contains(" 200 "))
    })
}

/// The address of a Service.
fn addr_of(cluster: &Cluster, service: &str) -> Result<String> {
    let addr = ["get", "service", service, "--output=jsonpath={.spec.clusterIP}"];
    Ok(in_namespace(cluster, &addr)?.trim().to_owned())
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

/// How the watch of a kind stands with the agent of [`OTHER`], and why it fails.
fn watch(cluster: &Cluster, kind: &str) -> Result<(String, String)> {
    let status = seen::status(cluster, OTHER)?;
    let watches = at(&status, "/api_server/watches").as_array().cloned();
    let watches = watches.context("the status page has no watches")?;
    let found = watches.iter().find(|watch| at(watch, "/watch") == kind);
    let found = found.with_context(|| format!("nothing of {kind} in {watches:?}"))?;
    let text = |pointer| at(found, pointer).as_str().unwrap_or_default().to_owned();
    Ok((text("/state"), text("/error")))
}

/// What `mesh-agent status` prints on [`OTHER`].
fn printed_status(cluster: &Cluster) -> Result<String> {
    let agents = cluster.pods("mesh-system", "app.kubernetes.io/name=mesh-agent")?;
    let agent = agents.iter().find(|agent| agent.node == OTHER);
    let agent = agent.with_context(|| format!("no agent on {OTHER}: {agents:?}"))?;
    cluster.exec(
        "mesh-system",
        &agent.name,
        &["/usr/local/bin/mesh-agent", "status"],
    )
}

/// What became of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Answers {
    ok: usize,
    failed: usize,
}

impl Asker {
    fn manifest(self, template: &str, cluster: &Cluster) -> Result<String> {
        let manifest = template.replace("SERVER", &addr_of(cluster, self.server)?);
        let manifest = manifest.replace("PORT", &self.port.to_string());
        let manifest = manifest.replace("namespace: NAMESPACE", &format!("namespace: {}", self.namespace));
        Ok(manifest.replace("NAME", self.name).replace("NODE", self.node))
    }

    /// What became of its requests since a moment, as its node keeps what it wrote.
    fn answers(self, cluster: &Cluster, since: f64) -> Result<Answers> {
        let said = seen::logs(cluster, self.node, (self.namespace, self.name))?;
        Ok(answers_in(&said, since))
    }
}

/// Lines are `TIME stdout F SECONDS ok`, or `failed`.
fn answers_in(said: &str, since: f64) -> Answers {
    let mut answers = Answers::default();
    for line in said.lines() {
        let mut words = line.rsplit(' ');
        let (Some(what), Some(at)) = (words.next(), words.next()) else {
            continue;
        };
        if !at.parse().is_ok_and(|at: f64| at > since) {
            continue;
        }
        match what {
            "ok" => answers.ok += 1,
            _ => answers.failed += 1,
        }
    }
    answers
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

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/mesh-agent";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_from_a_moment_on() {
        let said = "2026-11-22T02:00:00.1Z stdout F 99.45 failed\n2026-11-22T02:00:00.2Z stdout F 123.45 ok\n\
                    2026-11-22T02:00:00.3Z stdout F 124.45 failed\n2026-11-22T02:00:00.4Z std";
        assert_eq!(answers_in(said, 100.0), Answers { ok: 1, failed: 1 });
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
