//! Handshakes between nodes, seen on the wire: each certificate that breaks a rule is refused for its own reason by
//! either side; aliases, other meshes, revocation; and peers that do not even try to speak TLS well.
//!
//! The claims follow each other: the first gives both agents their lists and bundles, the others leave them in force.

mod callee;
mod conversations;
pub(super) mod rogue;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use self::callee::each_bad_certificate_of_a_callee_is_refused_for_its_own_reason;
use self::conversations::conversations_end_as_rfc_8446_wants;
use self::rogue::{
    BAD, CLIENT, LIMIT, NODES, ROGUE, call, certify, failures, is_logged, mesh_root, revoke, scratch,
};
use super::ask::{addresses, equal, get, python, text, until};
use super::{Claim, claims};
use crate::agent;
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![
    agents_take_lists_bundles_and_aliases_from_their_settings,
    each_bad_certificate_of_a_caller_is_refused_for_its_own_reason,
    a_caller_under_an_alias_is_who_policies_name,
    a_caller_of_another_mesh_is_verified_against_its_own_roots_only,
    a_revoked_caller_is_refused,
    a_revocation_ends_the_live_connections_of_that_certificate_and_the_workload_gets_another,
    hostile_handshakes_leave_the_agent_serving_and_small,
    conversations_end_as_rfc_8446_wants,
    each_bad_certificate_of_a_callee_is_refused_for_its_own_reason,
];

const CLIENT_ID: &str = "spiffe://cluster.local/ns/shop/sa/client";
const POLICY: &str = "tls-suite.yaml";

fn agents_take_lists_bundles_and_aliases_from_their_settings(lab: &Running) -> Result<()> {
    fs::create_dir_all(bundles(lab)).context("make the directory of bundles")?;
    fs::write(list(lab), "").context("write an empty list")?;
    for node in NODES {
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &settings(lab))?;
    }
    for node in NODES {
        lab.wait_ready(node)?;
    }
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)
}

fn settings(lab: &Running) -> Vec<String> {
    [
        ("--log-level", "info,mesh_agent::proxy=debug".to_owned()),
        ("--crl-file", list(lab).display().to_string()),
        ("--trust-bundle-dir", bundles(lab).display().to_string()),
        ("--trust-domain-aliases", "old.local".to_owned()),
        // On a busy machine a ClientHello of an outsider may be late.
        ("--detect-timeout-ms", "2000".to_owned()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}

fn list(lab: &Running) -> PathBuf {
    lab.site.run_dir().join("revoked.pem")
}

fn bundles(lab: &Running) -> PathBuf {
    lab.site.run_dir().join("bundles")
}

fn each_bad_certificate_of_a_caller_is_refused_for_its_own_reason(lab: &Running) -> Result<()> {
    let root = mesh_root(lab);
    certify(lab, ROGUE, &root, "good", "good", CLIENT_ID)?;
    ensure!(
        call(lab, "good")?.contains("200 OK"),
        "a good certificate is refused, so that nothing is proved"
    );
    for (kind, reason) in BAD {
        certify(lab, ROGUE, &root, kind, kind, CLIENT_ID)?;
        is_refused(lab, kind, reason)?;
    }
    let foreign = "spiffe://other.example/ns/shop/sa/client";
    certify(lab, ROGUE, &root, "foreign", "good", foreign)?;
    is_refused(lab, "foreign", "trust_domain")?;
    python(lab, ROGUE, "tls_peer.py", &["root", "elsewhere"])?;
    let elsewhere = scratch(lab, ROGUE)?.join("elsewhere.pem");
    certify(lab, ROGUE, &elsewhere, "unknown", "good", CLIENT_ID)?;
    is_refused(lab, "unknown", "untrusted")?;
    is_refused(lab, "-", "no_certificate")
}

/// Calls `shop/far` with a certificate and demands that its agent counts and logs this reason, and no answer comes.
fn is_refused(lab: &Running, certificate: &str, reason: &str) -> Result<()> {
    let before = failures(lab, "node-b", "server", reason)?;
    let answer = call(lab, certificate)?;
    equal(&format!("answer to {certificate}"), answer.as_str(), "")?;
    let counted = failures(lab, "node-b", "server", reason)? - before;
    equal(&format!("{certificate} counted as {reason}"), counted, 1.0)?;
    is_logged(lab, "node-b", "mTLS handshake refused", reason)
}

fn a_caller_under_an_alias_is_who_policies_name(lab: &Running) -> Result<()> {
    let root = mesh_root(lab);
    let old = "spiffe://old.local/ns/shop/sa/client";
    certify(lab, ROGUE, &root, "old", "good", old)?;
    certify(
        lab,
        ROGUE,
        &root,
        "other",
        "good",
        "spiffe://old.local/ns/shop/sa/other",
    )?;
    allow(lab, "cluster.local/ns/shop/sa/client")?;
    until(LIMIT, "the policy lets the alias in and nobody else", || {
        Ok(call(lab, "old")?.contains("200 OK")
            && call(lab, "good")?.contains("200 OK")
            && call(lab, "other")?.is_empty())
    })?;
    // And the other way round: the policy speaks of the old name.
    allow(lab, "old.local/ns/shop/sa/other")?;
    until(LIMIT, "the policy that names the alias lets it in", || {
        Ok(call(lab, "other")?.contains("200 OK") && call(lab, "old")?.is_empty())
    })?;
    lab.remove_manifest(POLICY)
}

fn a_caller_of_another_mesh_is_verified_against_its_own_roots_only(lab: &Running) -> Result<()> {
    let identity = "spiffe://far.example/ns/shop/sa/client";
    python(lab, ROGUE, "tls_peer.py", &["root", "neighbour"])?;
    let neighbour = scratch(lab, ROGUE)?.join("neighbour.pem");
    certify(lab, ROGUE, &neighbour, "neighbour-client", "good", identity)?;
    certify(lab, ROGUE, &neighbour, "usurper", "good", CLIENT_ID)?;
    certify(lab, ROGUE, &mesh_root(lab), "pretender", "good", identity)?;
    is_refused(lab, "neighbour-client", "untrusted")?;
    let bundle = fs::read(scratch(lab, ROGUE)?.join("neighbour.crt")).context("read the neighbour's root")?;
    fs::write(bundles(lab).join("far.example.pem"), bundle).context("federate")?;
    until(LIMIT, "the neighbour is let in", || {
        Ok(call(lab, "neighbour-client")?.contains("200 OK"))
    })?;
    is_refused(lab, "usurper", "untrusted")?;
    is_refused(lab, "pretender", "untrusted")?;
    allow(lab, "cluster.local/ns/shop/sa/client")?;
    until(LIMIT, "a policy for our own client is none for theirs", || {
        Ok(call(lab, "neighbour-client")?.is_empty())
    })?;
    lab.remove_manifest(POLICY)
}

fn a_revoked_caller_is_refused(lab: &Running) -> Result<()> {
    certify(lab, ROGUE, &mesh_root(lab), "called-back", "good", CLIENT_ID)?;
    until(LIMIT, "it is let in before", || {
        Ok(call(lab, "called-back")?.contains("200 OK"))
    })?;
    revoke(lab, "called-back.pem")?;
    until(
        LIMIT,
        "it is refused",
        || Ok(call(lab, "called-back")?.is_empty()),
    )?;
    is_refused(lab, "called-back", "revoked")?;
    ensure!(call(lab, "good")?.contains("200 OK"), "another is refused too");
    Ok(())
}

fn a_revocation_ends_the_live_connections_of_that_certificate_and_the_workload_gets_another(
    lab: &Running,
) -> Result<()> {
    let serial = || -> Result<String> {
        let status = lab.status("node-b")?;
        let all = status.get("certificates").and_then(Value::as_array);
        let is_greeter = |one: &&Value| text(one, "identity").is_ok_and(|id| id.ends_with("/sa/greeter"));
        let one = all.and_then(|all| all.iter().find(is_greeter));
        Ok(text(one.context("no certificate of the greeter")?, "serial")?.to_owned())
    };
    let state = scratch(lab, CLIENT)?.join("held");
    let is = |word: &str| Ok(fs::read_to_string(&state).is_ok_and(|said| said == word));
    let path = state.display().to_string();
    let before = (serial()?, revoked_connections(lab)?);
    let greeter = addresses(lab, "shop/greeter")?[0];
    std::thread::scope(|scope| {
        let held = scope.spawn(|| {
            let program = ["python3", "../programs/tcp_hold.py", &path, "greeter", "7000"];
            lab.exec(CLIENT, &program)
        });
        until(LIMIT, "the connection is held", || is("held"))?;
        let show = format!(
            "openssl s_client -connect {greeter}:7000 -alpn mesh-tcp </dev/null 2>/dev/null \
             | openssl x509 -out \"$SCRATCH/greeter.pem\""
        );
        lab.exec(ROGUE, &["sh", "-c", &show])?.success()?;
        revoke(lab, "greeter.pem")?;
        let took = until(Duration::from_secs(5), "the connection ends", || is("ended"))?;
        ensure!(took < Duration::from_secs(2), "it lived for {took:?}");
        held.join()
            .map_err(|_| anyhow::anyhow!("the holder panicked"))??;
        Ok(())
    })?;
    until(LIMIT, "an agent logs that it was revoked", || {
        Ok(revoked_connections(lab)? > before.1)
    })?;
    until(LIMIT, "the greeter has another certificate", || {
        Ok(serial()? != before.0)
    })?;
    let said = python(
        lab,
        CLIENT,
        "tcp_client.py",
        &["--listen-first", "greeter", "7000"],
    )?;
    ensure!(text(&said, "received")?.starts_with("220"), "{said}");
    Ok(())
}

/// Connections that either agent logged as revoked: whichever ends it first, the other sees only that.
fn revoked_connections(lab: &Running) -> Result<usize> {
    let mut count = 0;
    for node in NODES {
        let log = agent::access_log(&lab.site, node)?;
        let is_revoked = |line: &&Value| {
            text(line, "connection_termination_details").is_ok_and(|details| details == REVOKED)
        };
        count += log.iter().filter(is_revoked).count();
    }
    Ok(count)
}

const REVOKED: &str = "certificate_revoked";

fn hostile_handshakes_leave_the_agent_serving_and_small(lab: &Running) -> Result<()> {
    let node = lab.agent("node-b")?;
    let all = |lab: &Running| -> Result<f64> {
        let side = [("side", "server")];
        Ok(lab.metrics("node-b")?.sum("mesh_handshake_failures_total", &side))
    };
    let (before, counted) = (agent::usage(node)?, all(lab)?);
    let address = addresses(lab, "strict/vault")?[0].to_string();
    let said = python(lab, ROGUE, "tls_hostile.py", &[&address, "8080"])?;
    let count = |key: &str| said.get(key).and_then(Value::as_u64).unwrap_or_default();
    ensure!(count("tried") >= 100, "too few to prove anything: {said}");
    equal(
        "attempts that were not ended",
        said.get("left"),
        Some(&Value::from(0)),
    )?;
    equal(
        "attempts that were answered by the application",
        said.get("answered"),
        Some(&Value::from(0)),
    )?;
    let refused = all(lab)? - counted;
    ensure!(
        refused >= 20.0,
        "only {refused} are counted as failed handshakes: {said}"
    );
    let after = agent::usage(node)?;
    ensure!(
        after.rss_kib < before.rss_kib + 16 * 1024,
        "the agent grew from {} to {} KiB",
        before.rss_kib,
        after.rss_kib
    );
    until(LIMIT, "no descriptor is left behind", || {
        Ok(agent::usage(node)?.open_files <= before.open_files + 8)
    })?;
    equal(
        "a strict pod",
        get(lab, CLIENT, "http://vault.strict/")?.status,
        200,
    )
}

/// An ALLOW policy for `shop/far` that names one principal.
fn allow(lab: &Running, principal: &str) -> Result<()> {
    lab.put_manifest(
        POLICY,
        &format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{ name: tls-suite, namespace: shop }}\n\
             spec: {{ selector: {{ matchLabels: {{ app: far }} }}, \
             rules: [{{ from: [{{ source: {{ principals: [\"{principal}\"] }} }}] }}] }}\n"
        ),
    )
}
