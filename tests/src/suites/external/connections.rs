//! CUSTOM policies for servers that speak no HTTP: a greeter that speaks first, on both nodes, and redis.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{CLIENT, mesh_config};
use crate::agent;
use crate::running::Running;
use crate::suites::ask::{addresses, equal, python, text, until};
use crate::suites::authz::{IN_FORCE, protect, with};

const AUTHORIZER: &str = "shop/authorizer";
/// On the other node than the client, and on its own, where the kernel would carry the bytes without the agent.
const GREETERS: [(&str, &str); 2] = [("greeter", "node-b"), ("greeter-near", "node-a")];

pub(super) fn a_connection_is_asked_about_before_the_application_hears_of_it(lab: &Running) -> Result<()> {
    with(lab, &policies("", "grpc"), || {
        says(lab, "allow")?;
        for (server, _) in GREETERS {
            ensure!(
                greeting(lab, CLIENT, server)?.starts_with("220"),
                "{server} is not reached"
            );
            is_told_who(lab, server)?;
        }
        equal("redis", redis(lab)?.trim(), "PONG")?;
        says(lab, "deny")?;
        for (server, node) in GREETERS {
            let before = denied(lab, node)?;
            equal(server, greeting(lab, CLIENT, server)?, "")?;
            equal("refusals that are counted", denied(lab, node)? - before, 1.0)?;
            let [address, _] = addresses(lab, &format!("shop/{server}"))?;
            equal(
                "plaintext",
                greeting(lab, "outside/stranger", &address.to_string())?,
                "",
            )?;
            until(IN_FORCE, "the access log tells it", || {
                let lines = agent::access_log(&lab.site, node)?;
                Ok(lines.iter().any(|line| {
                    line["response_flags"] == "UAEX"
                        && line["connection_termination_details"] == "ext_authz_denied"
                }))
            })?;
        }
        ensure!(!redis(lab)?.contains("PONG"), "redis answers");
        says(lab, "allow")
    })
}

/// The last connection that the authorizer was asked about.
fn is_told_who(lab: &Running, server: &str) -> Result<()> {
    let asked = fs::read_to_string(scratch(lab)?.join("asked.json")).context("nobody was asked")?;
    let asked: Value = serde_json::from_str(&asked)?;
    let at = |pointer: &str| asked.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    for (pointer, wanted) in [
        (
            "/source/principal",
            "spiffe://cluster.local/ns/shop/sa/client".to_owned(),
        ),
        (
            "/destination/principal",
            "spiffe://cluster.local/ns/shop/sa/greeter".to_owned(),
        ),
        ("/destination/service", format!("{server}.shop.svc.cluster.local")),
    ] {
        equal(&format!("{server} {pointer}"), at(pointer), wanted.as_str())?;
    }
    let source = at("/source/address/socket_address/address");
    let own = addresses(lab, CLIENT)?.map(|own| own.to_string());
    ensure!(
        own.iter().any(|own| own == source),
        "{server}: the source is {source}"
    );
    let port = asked.pointer("/destination/address/socket_address/port_value");
    equal(server, port.and_then(Value::as_u64), Some(7000))?;
    ensure!(asked.get("request").is_none(), "a request was made up: {asked}");
    Ok(())
}

pub(super) fn without_a_decision_the_provider_says_what_becomes_of_a_connection(lab: &Running) -> Result<()> {
    for (more, is_let_in) in [("", false), (", failOpen: true", true)] {
        let short = policies(more, "grpc").replace("timeout: 5s", "timeout: 0.5s");
        let check = |what: &str| {
            for (server, _) in GREETERS {
                let said = greeting(lab, CLIENT, server)?;
                equal(&format!("{server} {what}"), said.starts_with("220"), is_let_in)?;
            }
            Ok(())
        };
        with(lab, &short, || {
            for word in ["hang", "fail", "garbage"] {
                says(lab, word)?;
                check(word)?;
            }
            says(lab, "allow")
        })?;
        with(lab, &short.replace("port: 9000", "port: 9001"), || {
            check("nowhere")
        })?;
    }
    Ok(())
}

pub(super) fn an_http_provider_is_not_asked_about_connections_and_is_named(lab: &Running) -> Result<()> {
    let open = policies("", "http").replace("pathPrefix: /check", "pathPrefix: /check, failOpen: true");
    with(lab, &open, || {
        for (server, _) in GREETERS {
            equal(server, greeting(lab, CLIENT, server)?, "")?;
        }
        ensure!(!redis(lab)?.contains("PONG"), "redis answers");
        // Of the greeters' port one of two Services says nothing, so that requests may come there.
        let status = lab.status("node-b")?.to_string();
        ensure!(
            status.contains("AuthorizationPolicy shop/redis-custom")
                && status.contains("port 6379 of pod shop/redis carries no HTTP"),
            "the status does not name it: {status}"
        );
        Ok(())
    })
}

pub(super) fn a_live_direct_connection_ends_when_somebody_must_be_asked_about_it(
    lab: &Running,
) -> Result<()> {
    let state = lab.site.scratch(&CLIENT.parse()?).join("asked-about");
    let path = state.display().to_string();
    let is = |word: &str| Ok(fs::read_to_string(&state).is_ok_and(|said| said == word));
    for (server, _) in GREETERS {
        fs::write(&state, "").context("forget the last connection")?;
        std::thread::scope(|scope| {
            let program = ["python3", "../programs/tcp_hold.py", &path, server, "7000"];
            let held = scope.spawn(move || lab.exec(CLIENT, &program));
            until(IN_FORCE, "the connection is held", || is("held"))?;
            let judged = with(lab, &policies("", "grpc"), || {
                until(Duration::from_secs(2), "the connection ends", || is("ended"))?;
                says(lab, "allow")?;
                ensure!(
                    greeting(lab, CLIENT, server)?.starts_with("220"),
                    "{server}: a new one is not let in"
                );
                Ok(())
            });
            held.join()
                .map_err(|_| anyhow::anyhow!("the holder panicked"))??;
            judged
        })?;
    }
    Ok(())
}

/// All three servers ask `provider` about whatever comes; the gRPC one has more fields.
fn policies(grpc: &str, provider: &str) -> String {
    let custom = |app| {
        let named = format!("action: CUSTOM, provider: {{ name: {provider} }}");
        protect(app, "CUSTOM", "[{}]").replace("action: CUSTOM", &named)
    };
    let apps = ["greeter", "greeter-near", "redis"].map(custom);
    mesh_config(grpc, "") + &apps.concat()
}

/// What the authorizer says of connections from now on.
fn says(lab: &Running, word: &str) -> Result<()> {
    fs::write(scratch(lab)?.join("connections"), word).context("tell the authorizer")
}

fn scratch(lab: &Running) -> Result<std::path::PathBuf> {
    Ok(lab.site.scratch(&AUTHORIZER.parse()?))
}

/// What a greeter says first and last; nothing where it is not reached.
fn greeting(lab: &Running, client: &str, server: &str) -> Result<String> {
    let said = python(lab, client, "tcp_client.py", &[server, "7000"])?;
    Ok(text(&said, "received")?.to_owned())
}

fn redis(lab: &Running) -> Result<String> {
    Ok(lab.exec(CLIENT, &["redis-cli", "-h", "redis", "ping"])?.stdout)
}

fn denied(lab: &Running, node: &str) -> Result<f64> {
    let labels = [("reason", "ext_authz_denied")];
    Ok(lab.metrics(node)?.sum("mesh_policy_denials_total", &labels))
}
