//! Authorization: who may ask what of whom, on one node, between two, and in plaintext.

mod matrix;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::matrix::every_cell_of_the_matrix_is_let_in_or_refused_as_declared;
pub use self::matrix::{Outcome, outcome};
use super::ask::{curl, equal, get, python, text, until};
use super::{Claim, claims};
use crate::agent;
use crate::process;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    every_cell_of_the_matrix_is_let_in_or_refused_as_declared,
    what_is_refused_is_told_as_envoy_tells_it,
    a_grpc_client_is_told_permission_denied,
    redis_is_let_in_for_one_identity_only,
    a_path_is_sent_on_in_the_form_in_which_it_was_judged,
    a_policy_that_forbids_ends_a_live_connection_within_a_second,
    a_policy_that_cannot_be_read_refuses_and_is_named,
    a_custom_policy_without_a_provider_refuses,
    a_dry_run_refuses_nothing_and_is_counted,
];

const CLIENT: &str = "shop/client";
const SECOND: Duration = Duration::from_secs(1);
/// What a change of manifests may take until both agents serve it; that it is a second is claimed elsewhere.
pub(super) const IN_FORCE: Duration = Duration::from_mins(1);
/// One file for all claims: they run one after the other.
const FILE: &str = "authorization.yaml";

fn what_is_refused_is_told_as_envoy_tells_it(lab: &Running) -> Result<()> {
    let policy = protect("far", "DENY", "[{to: [{operation: {paths: [/told*]}}]}]")
        + &protect("near", "DENY", "[{to: [{operation: {paths: [/told*]}}]}]");
    with(lab, &policy, || {
        for (server, node) in [("near", "node-a"), ("far", "node-b")] {
            let reply = get(lab, CLIENT, &format!("http://{server}/told"))?;
            equal(
                server,
                (reply.status, reply.body.as_str()),
                (403, "RBAC: access denied"),
            )?;
            let details =
                format!("rbac_access_denied_matched_policy[ns[shop]-policy[{server}-deny]-rule[0]]");
            until(IN_FORCE, "the access log tells the rule", || {
                let lines = agent::access_log(&lab.site, node)?;
                Ok(lines.iter().any(|line| line["response_code_details"] == details))
            })?;
            let refused = [("reason", "authorization_denied")];
            ensure!(
                lab.metrics(node)?.sum("mesh_policy_denials_total", &refused) >= 1.0,
                "{node} counts no refusal"
            );
        }
        Ok(())
    })
}

fn a_grpc_client_is_told_permission_denied(lab: &Running) -> Result<()> {
    let rules = "[{to: [{operation: {paths: [/lab.Greeter/Unary], methods: [POST]}}]}]";
    with(lab, &protect("grpc", "ALLOW", rules), || {
        for client in [CLIENT, "shop/client-b"] {
            let call = |kind: &str| python(lab, client, "grpc_client.py", &["grpc:50051", kind, "1"]);
            equal(client, text(&call("unary")?, "code")?, "OK")?;
            let refused = call("stream")?;
            equal(client, text(&refused, "code")?, "PERMISSION_DENIED")?;
            equal(client, text(&refused, "details")?, "RBAC: access denied")?;
        }
        Ok(())
    })
}

fn redis_is_let_in_for_one_identity_only(lab: &Running) -> Result<()> {
    let rules = "[{from: [{source: {serviceAccounts: [client]}}], to: [{operation: {ports: ['6379']}}]}]";
    let ping = |client| lab.exec(client, &["redis-cli", "-h", "redis", "ping"]);
    with(lab, &protect("redis", "ALLOW", rules), || {
        for client in [CLIENT, "shop/client-b"] {
            equal(client, ping(client)?.success()?.stdout.trim(), "PONG")?;
        }
        for client in ["shop/near", "shop/far"] {
            let output = ping(client)?;
            ensure!(!output.stdout.contains("PONG"), "{client} was let in");
        }
        Ok(())
    })
}

fn a_path_is_sent_on_in_the_form_in_which_it_was_judged(lab: &Running) -> Result<()> {
    let policy = |server| protect(server, "DENY", "[{to: [{operation: {paths: ['/admin*']}}]}]");
    with(lab, &(policy("near") + &policy("far")), || {
        for server in ["near", "far"] {
            let ask = |path: &str| curl(lab, CLIENT, &["--path-as-is", &format!("http://{server}{path}")]);
            for trick in [
                "/%61dmin",
                "/x/../admin",
                "//admin",
                "/x/..%2fadmin",
                "/x/..;/admin",
                "/x\\..\\admin",
            ] {
                equal(&format!("{server}{trick}"), ask(trick)?.status, 403)?;
            }
            equal(server, ask("/admin/../a/%62//c")?.says("path")?, "/a/b//c")?;
        }
        Ok(())
    })
}

fn a_policy_that_forbids_ends_a_live_connection_within_a_second(lab: &Running) -> Result<()> {
    for server in ["greeter-near", "greeter"] {
        let held = lab.site.scratch(&CLIENT.parse()?).join("held");
        let file = held.display().to_string();
        let words = ["python3", "../programs/tcp_hold.py", &file, server, "7000"].map(str::to_owned);
        let mut command = lab.command(&CLIENT.parse()?, &words, &lab.state.input)?;
        let mut holder = command.spawn().context("start the client")?;
        let says = |word: &str| Ok(std::fs::read_to_string(&held).is_ok_and(|said| said == word));
        let judged = until(IN_FORCE, "the connection stands", || says("held")).and_then(|_| {
            // Not waited for until it is in force: the second counts from the change.
            lab.put_manifest(
                FILE,
                &protect(
                    server,
                    "DENY",
                    "[{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]",
                ),
            )?;
            until(SECOND, &format!("the connection to {server} ends"), || {
                says("ended")
            })
        });
        lab.remove_manifest(FILE)?;
        if judged.is_err() {
            holder.kill().context("end the client")?;
        }
        process::reap(&mut holder)?;
        std::fs::remove_file(&held).context("forget what the client said")?;
        judged?;
        until(IN_FORCE, "the client is let in again", || {
            let said = python(lab, CLIENT, "tcp_client.py", &["--send", "x", server, "7000"])?;
            Ok(text(&said, "received")?.contains("220"))
        })?;
    }
    Ok(())
}

fn a_policy_that_cannot_be_read_refuses_and_is_named(lab: &Running) -> Result<()> {
    let policy = protect("near", "ALOW", "[{}]");
    with(lab, &policy, || {
        equal("near", get(lab, CLIENT, "http://near/")?.status, 403)?;
        equal("far", get(lab, CLIENT, "http://far/")?.status, 200)?;
        let status = lab.status("node-a")?.to_string();
        ensure!(
            status.contains("AuthorizationPolicy shop/near-alow") && status.contains("spec.action"),
            "the status does not name it: {status}"
        );
        Ok(())
    })
}

fn a_custom_policy_without_a_provider_refuses(lab: &Running) -> Result<()> {
    let rules = "[{to: [{operation: {paths: [/asked]}}]}]";
    with(lab, &protect("far", "CUSTOM", rules), || {
        equal(
            "what it selects",
            get(lab, CLIENT, "http://far/asked")?.status,
            403,
        )?;
        equal("what it does not", get(lab, CLIENT, "http://far/")?.status, 200)
    })
}

fn a_dry_run_refuses_nothing_and_is_counted(lab: &Running) -> Result<()> {
    let policy = protect("far", "DENY", "[{}]").replace(
        "namespace: shop,",
        "namespace: shop, annotations: { istio.io/dry-run: 'true' },",
    );
    with(lab, &policy, || {
        let count = || {
            let metrics = lab.metrics("node-b")?;
            Ok::<_, anyhow::Error>(metrics.sum("mesh_policy_dry_runs_total", &[("result", "deny")]))
        };
        let before = count()?;
        equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
        ensure!(count()? - before > 0.5, "it is not counted");
        Ok(())
    })
}

/// A policy for the pods of an app, named `APP-ACTION`.
pub(super) fn protect(app: &str, action: &str, rules: &str) -> String {
    let name = format!("{app}-{}", action.to_lowercase());
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{ namespace: shop, name: {name} }}\n\
         spec: {{ selector: {{ matchLabels: {{ app: {app} }} }}, action: {action}, rules: {rules} }}\n"
    )
}

/// Does `work` while manifests are in force at both agents.
pub(super) fn with(lab: &Running, manifests: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    lab.put_manifest(FILE, manifests)?;
    let worked = lab.settled(IN_FORCE).and_then(|()| work());
    lab.remove_manifest(FILE)?;
    worked?;
    lab.settled(IN_FORCE)
}

/// Puts other manifests in force at both agents, within the work of [`with`] and until it is done.
pub(super) fn replaced(lab: &Running, manifests: &str) -> Result<()> {
    lab.put_manifest(FILE, manifests)?;
    lab.settled(IN_FORCE)
}
