//! What one side does not prove to the other, or cannot: the agent refuses, says which rule it was and why, and serves all
//! others.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::ask::equal;
use super::{CLIENTS, FAR, NEAR, SERVERS, Server, and, servers, with_tls};
use crate::running::Running;

/// A way in which nothing is proved.
struct Wrong {
    /// In paths, to be found in logs.
    word: &'static str,
    tls: fn(&Server) -> Value,
    /// In `status`.
    reason: &'static str,
}

const WRONGS: [Wrong; 3] = [
    Wrong {
        word: "authority",
        tls: |server| {
            let other = if server.name == NEAR.name { &FAR } else { &NEAR };
            and(server.mutual(), "caCertificates", other.path("ca.pem"))
        },
        reason: "UnknownIssuer",
    },
    Wrong {
        word: "name",
        tls: |server| and(server.mutual(), "subjectAltNames", json!(["other.example.com"])),
        reason: "NotValidForName",
    },
    Wrong {
        word: "file",
        tls: |server| and(server.mutual(), "clientCertificate", server.path("absent.pem")),
        reason: "absent.pem: No such file",
    },
];

pub(super) fn what_is_not_proved_is_refused_and_named_and_hurts_no_other(lab: &Running) -> Result<()> {
    let _servers = servers(lab, "alpha")?;
    for wrong in &WRONGS {
        for wronged in SERVERS {
            let is_wronged = |server: &Server| server.name == wronged.name;
            let tls = |server: &Server| {
                if is_wronged(server) {
                    (wrong.tls)(server)
                } else {
                    server.mutual()
                }
            };
            with_tls(lab, tls, |server| {
                if is_wronged(server) {
                    server.is_refused(lab, &format!("{}/{}", wrong.word, server.name))?;
                    return is_named(lab, server, wrong.reason);
                }
                server.knows(lab, "CN=alpha")
            })
            .with_context(|| format!("{} of {}", wrong.word, wronged.name))?;
            for (_, node) in CLIENTS {
                equal(node, failing(lab, node)?, json!([]))?;
            }
        }
    }
    Ok(())
}

/// Fails unless the agents that speak with the server name its rule, this reason, and no other rule.
fn is_named(lab: &Running, server: &Server, reason: &str) -> Result<()> {
    let policy = format!("DestinationRule shop/{}", server.name);
    for (_, node) in CLIENTS {
        let failing = failing(lab, server.node.unwrap_or(node))?;
        let all = failing.as_array().context("a list")?;
        let [one] = all.as_slice() else {
            anyhow::bail!("{node} names not one rule: {failing}");
        };
        equal(node, one.get("policy"), Some(&json!(policy)))?;
        let error = one.get("error").and_then(Value::as_str).unwrap_or_default();
        ensure!(error.contains(reason), "{node} does not say {reason:?}: {one}");
    }
    Ok(())
}

/// What `status` of a node says of TLS with applications.
fn failing(lab: &Running, node: &str) -> Result<Value> {
    let status = lab.status(node)?;
    let failing = status.get("backend_tls").cloned();
    failing.context("status has no backend_tls")
}
