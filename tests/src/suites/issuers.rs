//! Certificates that are late, run out, or come out of files.
//!
//! Each claim starts the agents that it needs anew, and leaves both running.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ask::{addresses, equal, get, python, text, until, url};
use super::{Claim, claims};
use crate::agent;
use crate::authority::{Authority, LIFE};
use crate::running::Running;
use crate::wire::Capture;

pub(super) const CLAIMS: &[Claim] = claims![
    certificates_out_of_files_are_used_and_replaced_ones_within_seconds,
    without_a_ca_at_start_strict_refuses_all_and_permissive_takes_plaintext_of_outsiders_only,
    a_ca_that_stays_away_is_an_alarm_before_certificates_expire_and_in_the_log,
];

const NODE: &str = "node-b";
const CLIENT: &str = "shop/client";
const STRANGER: &str = "outside/stranger";
const FAR: &str = "spiffe://cluster.local/ns/shop/sa/far";
const LIMIT: Duration = Duration::from_secs(20);

fn certificates_out_of_files_are_used_and_replaced_ones_within_seconds(lab: &Running) -> Result<()> {
    let dir = lab.site.run_dir().join("certificates");
    let identities: Vec<String> = certificates(lab)?
        .into_iter()
        .map(|(identity, _)| identity)
        .collect();
    ensure!(
        identities.iter().any(|identity| identity == FAR),
        "{identities:?}"
    );
    for identity in &identities {
        certify(lab, &dir, identity)?;
    }
    lab.end_agent(NODE, Signal::SIGTERM)?;
    let arguments = ["--certificate-dir".to_owned(), dir.display().to_string()];
    lab.start_agent_with(NODE, &arguments)?;
    lab.wait_ready(NODE)?;
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
    let in_file = |lab: &Running| -> Result<String> {
        let path = dir.join("shop/far/tls.crt");
        let script = format!("openssl x509 -in {} -noout -serial", path.display());
        let serial = lab.exec(STRANGER, &["sh", "-c", &script])?.success()?.stdout;
        Ok(serial.trim().trim_start_matches("serial=").to_lowercase())
    };
    equal("serial", serial_of_far(lab)?, in_file(lab)?)?;
    certify(lab, &dir, FAR)?;
    let replaced = in_file(lab)?;
    until(LIMIT, "the replaced file is in use", || {
        Ok(serial_of_far(lab)? == replaced)
    })?;
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
    lab.end_agent(NODE, Signal::SIGTERM)?;
    lab.start_agent(NODE)
}

/// As cert-manager lays it out, signed by the lab's own root.
fn certify(lab: &Running, dir: &Path, identity: &str) -> Result<()> {
    let root = lab.site.ca_dir().join("root.pem");
    let name = "of-file";
    let arguments = ["certificate", &root.display().to_string(), name, "good", identity];
    python(lab, STRANGER, "tls_peer.py", &arguments)?;
    let parts: Vec<_> = identity.split('/').collect();
    let [.., "ns", namespace, "sa", account] = parts[..] else {
        anyhow::bail!("{identity} is not a workload's");
    };
    let place = dir.join(namespace).join(account);
    fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    let scratch = lab.site.scratch(&STRANGER.parse()?);
    for (from, to) in [
        (scratch.join("of-file.key"), "tls.key"),
        (lab.site.ca_dir().join("root.pem"), "ca.crt"),
        // Last: the agent looks at any time, and a certificate with the key of another is refused and asked for again.
        (scratch.join("of-file.pem"), "tls.crt"),
    ] {
        fs::copy(&from, place.join(to)).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}

fn without_a_ca_at_start_strict_refuses_all_and_permissive_takes_plaintext_of_outsiders_only(
    lab: &Running,
) -> Result<()> {
    let ca = Authority::of(lab)?;
    ca.start()?;
    for node in ["node-a", NODE] {
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &ca.agent_arguments(node))?;
        lab.wait_ready(node)?;
    }
    until(LIMIT, "there are certificates", || {
        Ok(get(lab, CLIENT, "http://vault.strict/")?.status == 200)
    })?;
    lab.end_agent(NODE, Signal::SIGTERM)?;
    ca.kill()?;
    let capture = Capture::start(lab, "no-ca-there")?;
    lab.start_agent_with(NODE, &ca.agent_arguments(NODE))?;
    lab.wait_ready(NODE)?;
    let [vault, open] = ["strict/vault", "strict/open"].map(|pod| addresses(lab, pod));
    let (vault, open) = (url(vault?[0], 8080, "/"), url(open?[0], 8080, "/"));
    equal("strict, to a stranger", get(lab, STRANGER, &vault)?.status, 0)?;
    equal(
        "permissive, to a stranger",
        get(lab, STRANGER, &open)?.status,
        200,
    )?;
    // Who has a certificate still asks for one: nothing falls back to plaintext.
    for service in ["vault.strict", "open.strict"] {
        let reply = get(lab, CLIENT, &format!("http://{service}/seen-by-nobody"))?;
        equal(&format!("{service}, to the mesh"), reply.status, 503)?;
    }
    let status = lab.status(NODE)?.to_string();
    ensure!(
        status.contains("cannot reach the ca"),
        "status does not say why: {status}"
    );
    ensure!(
        lab.metrics(NODE)?.sum("mesh_certificates_overdue", &[]) > 0.5,
        "no alarm although there is no certificate"
    );
    ca.start()?;
    until(LIFE * 2, "the pods are reached", || {
        Ok(get(lab, CLIENT, "http://vault.strict/seen-by-nobody")?.status == 200)
    })?;
    let wire = capture.stop()?;
    ensure!(!wire.contains(b"seen-by-nobody"), "a path was on the wire");
    Ok(())
}

/// Certificates of half a minute: the alarm is in the last quarter of a life, whatever its length.
fn a_ca_that_stays_away_is_an_alarm_before_certificates_expire_and_in_the_log(lab: &Running) -> Result<()> {
    let ca = Authority::of(lab)?;
    ca.kill()?;
    let reaches = || Ok::<_, anyhow::Error>(get(lab, CLIENT, "http://vault.strict/")?.status == 200);
    ensure!(reaches()?, "refused as soon as the ca was gone");
    until(LIFE, "an alarm while the certificates still serve", || {
        let overdue = lab.metrics("node-a")?.sum("mesh_certificates_overdue", &[]) > 0.5;
        Ok(overdue && reaches()?)
    })?;
    until(LIFE * 2, "refusal at expiry", || Ok(!reaches()?))?;
    let log =
        fs::read_to_string(agent::log(&lab.site, "node-a", "stderr")).context("read the agent's log")?;
    let left = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line.to_string().contains("cannot get a certificate"))
        .filter_map(|line| number_within(&line, "expires_in_s"));
    let left: Vec<u64> = left.collect();
    ensure!(
        left.iter().any(|seconds| *seconds > 0),
        "no line of the log warned before the end: {left:?}"
    );
    ca.start()?;
    until(LIFE * 2, "the certificates are back", reaches).map(drop)
}

/// A number under this key, at any depth of a log line.
fn number_within(value: &Value, key: &str) -> Option<u64> {
    let inner = value.as_object()?;
    let here = inner.get(key).and_then(Value::as_u64);
    here.or_else(|| inner.values().find_map(|inner| number_within(inner, key)))
}

fn serial_of_far(lab: &Running) -> Result<String> {
    let all = certificates(lab)?;
    let (_, serial) = all
        .into_iter()
        .find(|(identity, _)| identity == FAR)
        .context("no certificate of far")?;
    Ok(serial)
}

/// Identities of the node and the serial numbers of their certificates, without colons.
fn certificates(lab: &Running) -> Result<Vec<(String, String)>> {
    let status = lab.status(NODE)?;
    let all = status.get("certificates").and_then(Value::as_array);
    let all = all.context("the status has no certificates")?.iter();
    all.map(|one| {
        let serial = one.get("serial").and_then(Value::as_str).unwrap_or_default();
        Ok((text(one, "identity")?.to_owned(), serial.replace(':', "")))
    })
    .collect()
}
