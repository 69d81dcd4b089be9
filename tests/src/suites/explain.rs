//! Explanations: what `mesh-agent explain` says is what an unmodified client then gets, and saying it does nothing.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{curl, equal};
use super::authz::{protect, with};
use super::{Claim, claims};
use crate::process::{self, Output};
use crate::running::{EXEC_LIMIT, Running};
use crate::sandbox;

pub(super) const CLAIMS: &[Claim] = claims![
    what_is_explained_is_what_curl_gets,
    bytes_are_explained_as_they_go,
    an_explanation_counts_nothing,
    people_get_a_tree_that_ends_with_the_verdict,
    who_asks_the_wrong_agent_is_told_which_one,
];

const CLIENT: &str = "shop/client";
const NODE: &str = "node-a";

fn what_is_explained_is_what_curl_gets(lab: &Running) -> Result<()> {
    let table: &[&[&str]] = &[
        &["http://matches/v1/x"],
        &["http://matches/v1x"],
        &["http://matches/items/42?kind=a%20b"],
        &["-H", "X-Canary: yes", "http://matches/anything"],
        &["-X", "DELETE", "http://matches/anything"],
        &["http://matches/moved/a?q=1"],
        &["http://no-backend/"],
        &["http://no-endpoints/"],
        &["http://near/"],
        &["http://far.shop/"],
        &["http://far/forbidden"],
        &["http://near/x/..%2fforbidden"],
        &["-X", "POST", "http://far.shop.svc.cluster.local/"],
        &["http://vault.strict/"],
        &["http://plain.outside/"],
        &["http://nobody/"],
    ];
    let rules = "[{to: [{operation: {paths: ['/forbidden*']}}]}]";
    let policies = protect("near", "DENY", rules) + &protect("far", "DENY", rules);
    with(lab, &policies, || {
        for arguments in table {
            let verdict = verdict(&explained(lab, CLIENT, arguments)?)?;
            let path_as_is = [&["--path-as-is"], *arguments].concat();
            let got = curl(lab, CLIENT, &path_as_is)?.status;
            let foretold = match verdict {
                (outcome, None) if outcome == "sent" => 200,
                (_, Some(status)) => status,
                (outcome, None) => anyhow::bail!("{}: {outcome}", arguments.join(" ")),
            };
            equal(&arguments.join(" "), u64::from(got), foretold)?;
        }
        Ok(())
    })
}

fn bytes_are_explained_as_they_go(lab: &Running) -> Result<()> {
    let rules = "[{from: [{source: {serviceAccounts: [client]}}]}]";
    let ping = |client| lab.exec(client, &["redis-cli", "-h", "redis", "ping"]);
    with(lab, &protect("redis", "ALLOW", rules), || {
        for (client, wanted) in [(CLIENT, "sent"), ("shop/near", "refused")] {
            let (outcome, _) = verdict(&explained(lab, client, &["tcp://redis:6379"])?)?;
            equal(client, outcome.as_str(), wanted)?;
            let is_served = ping(client)?.stdout.contains("PONG");
            equal(client, is_served, wanted == "sent")?;
        }
        Ok(())
    })
}

fn an_explanation_counts_nothing(lab: &Running) -> Result<()> {
    let counted = || -> Result<[f64; 3]> {
        let metrics = lab.metrics(NODE)?;
        let families = [
            "istio_requests_total",
            "mesh_policy_denials_total",
            "mesh_breaker_overflows_total",
        ];
        Ok(families.map(|family| metrics.sum(family, &[])))
    };
    let before = counted()?;
    for url in [
        "http://near/",
        "http://split/",
        "http://no-backend/",
        "http://far/",
    ] {
        explained(lab, CLIENT, &[url])?;
    }
    equal("counters", counted()?, before)
}

fn people_get_a_tree_that_ends_with_the_verdict(lab: &Running) -> Result<()> {
    let tree = explain(lab, CLIENT, &["http://matches/v1/x"])?.success()?.stdout;
    for part in [
        "DESTINATION: Service shop/matches",
        "HTTPRoute shop/matches rule 0: path /v2 or below; no: the path is not /v2 or below",
        "BACKEND: shop/web-v1:80, 100.0 %",
    ] {
        ensure!(tree.contains(part), "no {part:?} in {tree}");
    }
    let last = tree.lines().last().unwrap_or_default();
    ensure!(last.starts_with("VERDICT: SENT"), "{tree}");
    Ok(())
}

fn who_asks_the_wrong_agent_is_told_which_one(lab: &Running) -> Result<()> {
    for (pod, url, says) in [
        ("shop/client-b", "http://near/", "runs on node node-b"),
        ("shop/clinet", "http://near/", "is shop/client meant?"),
        ("outside/stranger", "http://near/", "is not in the mesh"),
        (CLIENT, "near", "http://HOST[:PORT]/PATH"),
        (CLIENT, "http://neer/", "no Service neer"),
    ] {
        let output = explain(lab, pod, &[url])?;
        ensure!(!output.status.success(), "{pod} {url} is explained");
        ensure!(output.stderr.contains(says), "{pod} {url}: {}", output.stderr);
    }
    Ok(())
}

/// Outcome, and the status that the agent answers with.
fn verdict(explanation: &Value) -> Result<(String, Option<u64>)> {
    let verdict = explanation.get("verdict").context("no verdict")?;
    let outcome = verdict.get("outcome").and_then(Value::as_str);
    let status = verdict.get("status").and_then(Value::as_u64);
    Ok((outcome.context("no outcome")?.to_owned(), status))
}

/// The explanation of a request; the last of the arguments is its URL, the others are as curl takes them.
fn explained(lab: &Running, pod: &str, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["-o", "json"], arguments].concat();
    let output = explain(lab, pod, &arguments)?.success()?;
    serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {}", output.stdout))
}

/// Runs the command on the node of the client.
fn explain(lab: &Running, pod: &str, arguments: &[&str]) -> Result<Output> {
    let (url, others) = arguments.split_last().context("no URL")?;
    let binary = lab.site.agent_binary().display().to_string();
    let words = [&binary, "explain", "--from", pod, "--to", url];
    let program: Vec<_> = words
        .iter()
        .chain(others)
        .map(|word| (*word).to_owned())
        .collect();
    let place = sandbox::observer(&lab.site, &lab.site.node_netns(NODE));
    process::run(&mut place.command(&program)?, EXEC_LIMIT)
}
