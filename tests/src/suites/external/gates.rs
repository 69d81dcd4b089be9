//! Gates of routes: the authorizers of CUSTOM policies, asked by the client's agent for an `ExternalAuth` filter.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{CLIENT, SERVERS, header, seen};
use crate::agent;
use crate::running::Running;
use crate::suites::ask::{addresses, curl, equal, get, text, until, url};
use crate::suites::authz::{IN_FORCE, with};

/// On the other node than [`CLIENT`].
const CLIENT_B: &str = "shop/client-b";

/// A route of both servers that has this `externalAuth` and further filters for what lies below `/asked`.
fn gated(written: &str, filters: &str) -> String {
    let of = |(server, _): (&str, &str)| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ namespace: shop, name: \
             {server}-gate }}\nspec:\n  parentRefs: [{{ group: '', kind: Service, name: {server} }}]\n  rules:\n  - \
             matches: [{{ path: {{ value: /asked }} }}]\n    filters: [{{ type: ExternalAuth, externalAuth: {{ {written} \
             }} }}{filters}]\n    backendRefs: [{{ name: {server}, port: 80 }}]\n  - backendRefs: [{{ name: {server}, \
             port: 80 }}]\n"
        )
    };
    SERVERS.map(of).concat()
}

const GRPC: &str = "protocol: GRPC, backendRef: { name: authorizer, port: 9000 }";
const HTTP: &str = "protocol: HTTP, backendRef: { name: doorman, port: 80 }, http: { path: /check }";

pub(super) fn a_gate_of_a_route_sees_what_the_client_wrote_and_changes_what_the_back_end_sees(
    lab: &Running,
) -> Result<()> {
    let route = ", { type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }, \
                 { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-many, value: route }] } }";
    with(lab, &gated(GRPC, route), || {
        for (server, _) in SERVERS {
            let url = format!("http://{server}/asked/allow?token=t&x=1");
            let forged = ["-H", "x-user: mallory", "-H", "x-secret: s", "-H", "x-many: a"];
            let seen = seen(lab, &[&forged[..], &[&url]].concat())?;
            equal(server, text(&seen, "path")?, "/new/allow?x=1&by=alice")?;
            equal(server, header(&seen, "x-user").as_deref(), Some("alice"))?;
            equal(server, header(&seen, "x-secret"), None)?;
            // The route has the last word.
            equal(server, header(&seen, "x-many").as_deref(), Some("route"))?;
            let asked = header(&seen, "x-asked").context("the authorizer said nothing")?;
            let asked: Value = serde_json::from_str(&asked)?;
            for (pointer, wanted) in [
                ("/source/principal", "spiffe://cluster.local/ns/shop/sa/client"),
                ("/request/http/path", "/asked/allow?token=t&x=1"),
                ("/request/http/headers/x-user", "mallory"),
            ] {
                let said = asked.pointer(pointer).and_then(Value::as_str);
                equal(&format!("{server} {pointer}"), said, Some(wanted))?;
            }
        }
        Ok(())
    })
}

pub(super) fn a_gate_of_a_route_refuses_in_its_own_words_at_the_clients_node(lab: &Running) -> Result<()> {
    for (gate, word, status, body) in [
        (GRPC, "deny", 402, "pay first"),
        (GRPC, "empty", 403, ""),
        (HTTP, "no", 401, "who are you"),
    ] {
        with(lab, &gated(gate, ""), || {
            for (client, node) in [(CLIENT, "node-a"), (CLIENT_B, "node-b")] {
                for (server, _) in SERVERS {
                    let what = format!("{client} {server} {word}");
                    let before = denied(lab, node)?;
                    let reply = get(lab, client, &format!("http://{server}/asked/{word}"))?;
                    equal(&what, reply.status, status)?;
                    ensure!(reply.body.contains(body), "{what}: {}", reply.body);
                    ensure!(
                        denied(lab, node)? - before > 0.5,
                        "{what}: {node} does not count it"
                    );
                    let open = get(lab, client, &format!("http://{server}/open/{word}"))?;
                    equal(&what, open.status, 200)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// How many requests authorizers have refused at a node.
fn denied(lab: &Running, node: &str) -> Result<f64> {
    let metrics = lab.metrics(node)?;
    Ok(metrics.sum("mesh_external_checks_total", &[("result", "denied")]))
}

pub(super) fn a_gate_of_a_route_that_nobody_answers_stays_shut(lab: &Running) -> Result<()> {
    for (why, gate, status) in [
        (
            "no-endpoint",
            GRPC.replace("authorizer, port: 9000", "nobody, port: 80"),
            503,
        ),
        ("no-such-service", HTTP.replace("doorman", "no-such-service"), 503),
        ("malformed", GRPC.replace("GRPC", "SMTP"), 500),
    ] {
        with(lab, &gated(&gate, ""), || {
            for (server, _) in SERVERS {
                let path = format!("/asked/{why}/{server}/allow");
                let reply = get(lab, CLIENT, &format!("http://{server}{path}"))?;
                equal(&path, reply.status, status)?;
                if status == 503 {
                    no_decision_is_logged(lab, &path)?;
                }
                let open = get(lab, CLIENT, &format!("http://{server}/open"))?;
                equal(server, open.status, 200)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until the access log of the client's node tells that nobody decided.
fn no_decision_is_logged(lab: &Running, path: &str) -> Result<()> {
    until(IN_FORCE, "the access log tells it", || {
        let lines = agent::access_log(&lab.site, "node-a")?;
        Ok(lines.iter().any(|line| {
            line["path"] == path
                && line["response_flags"] == "UAEX"
                && line["response_code_details"] == "ext_authz_error"
        }))
    })
    .map(|_| ())
}

pub(super) fn who_dials_the_pod_passes_no_gate_of_a_route(lab: &Running) -> Result<()> {
    with(lab, &gated(GRPC, ""), || {
        for (server, _) in SERVERS {
            let [address, _] = addresses(lab, &format!("shop/{server}"))?;
            let reply = curl(lab, CLIENT, &[&url(address, 8080, "/asked/deny")])?;
            equal(server, reply.says("version")?, server)?;
        }
        Ok(())
    })
}
