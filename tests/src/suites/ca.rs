//! The certificate authority: agents that use one service, roots that change, and a service that goes away.
//!
//! The claims follow each other: the first gives both agents the service, the others leave it running.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ask::{equal, get, python, text, until};
use super::{Claim, claims, steady};
use crate::authority::{Authority, LIFE};
use crate::process;
use crate::running::Running;
use crate::sandbox;
use crate::wire::Capture;

pub(super) const CLAIMS: &[Claim] = claims![
    agents_of_both_nodes_use_one_ca_service,
    a_client_generated_from_istios_proto_gets_a_certificate_that_openssl_verifies,
    an_agent_that_asks_for_a_pod_of_another_node_is_refused_and_the_reason_is_logged,
    a_root_is_rotated_under_load_with_certificates_of_half_a_minute_and_no_failed_request,
    without_the_ca_traffic_goes_on_until_expiry_is_refused_then_and_comes_back,
    an_agent_that_starts_without_the_ca_refuses_and_says_why_and_sends_no_plaintext,
];

pub(super) const NODES: [&str; 2] = ["node-a", "node-b"];
const CLIENT: &str = "shop/client";

fn agents_of_both_nodes_use_one_ca_service(lab: &Running) -> Result<()> {
    let ca = Authority::of(lab)?;
    ca.start()?;
    for node in NODES {
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &ca.agent_arguments(node))?;
    }
    for node in NODES {
        lab.wait_ready(node)?;
    }
    until(
        Duration::from_secs(10),
        "every identity has a certificate",
        || Ok(certificates(lab)?.iter().all(|one| one.expires.is_some())),
    )?;
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
    equal(
        "a strict pod",
        get(lab, CLIENT, "http://vault.strict/")?.status,
        200,
    )?;
    let issued = ca.metrics()?.sum("mesh_ca_issued_total", &[]);
    ensure!(issued >= 10.0, "the ca has signed {issued} certificates");
    Ok(())
}

fn a_client_generated_from_istios_proto_gets_a_certificate_that_openssl_verifies(
    lab: &Running,
) -> Result<()> {
    let identity = "spiffe://cluster.local/ns/shop/sa/near";
    let said = generated_client(lab, "node-a", identity)?;
    equal("code", text(&said, "code")?, "OK")?;
    for verified in ["verified", "verified_client"] {
        ensure!(text(&said, verified)?.ends_with(": OK"), "{said}");
    }
    for claim in ["root_is_trusted", "key_is_ours"] {
        equal(claim, said.get(claim).and_then(Value::as_bool), Some(true))?;
    }
    let certificate = text(&said, "text")?;
    for wanted in [
        &format!("URI:{identity}"),
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Server Authentication, TLS Web Client Authentication",
    ] {
        ensure!(certificate.contains(wanted), "no {wanted:?} in {certificate}");
    }
    ensure!(
        !certificate.contains("mallory"),
        "a name of the request was taken over: {certificate}"
    );
    Ok(())
}

fn an_agent_that_asks_for_a_pod_of_another_node_is_refused_and_the_reason_is_logged(
    lab: &Running,
) -> Result<()> {
    let ca = Authority::of(lab)?;
    let refused = || -> Result<f64> {
        Ok(ca
            .metrics()?
            .sum("mesh_ca_refused_total", &[("reason", "not_on_node")]))
    };
    let before = refused()?;
    let identity = "spiffe://cluster.local/ns/shop/sa/far";
    let said = generated_client(lab, "node-a", identity)?;
    equal("code", text(&said, "code")?, "PERMISSION_DENIED")?;
    ensure!(
        text(&said, "details")?.contains("runs on the caller's node"),
        "{said}"
    );
    equal("refusals counted", refused()? - before, 1.0)?;
    let log = fs::read_to_string(ca.log()).context("read the log of the ca")?;
    let line = log
        .lines()
        .find(|line| line.contains("not_on_node") && line.contains(identity))
        .context("no line of the log says why")?;
    ensure!(
        line.contains("\"node\":\"node-a\""),
        "the line does not name the node: {line}"
    );
    equal(
        "its own node",
        text(&generated_client(lab, "node-b", identity)?, "code")?,
        "OK",
    )
}

fn a_root_is_rotated_under_load_with_certificates_of_half_a_minute_and_no_failed_request(
    lab: &Running,
) -> Result<()> {
    let ca = Authority::of(lab)?;
    steady::beside(lab, CLIENT, 500.0, || rotate(lab, &ca))
}

/// The three steps of docs/certificates.md; after each, every certificate of both nodes is renewed once.
fn rotate(lab: &Running, ca: &Authority<'_>) -> Result<()> {
    let next = ca.dir().join("next");
    ca.make_root(&next)?;
    let old = fs::read_to_string(ca.bundle()).context("read the bundle")?;
    let new = fs::read_to_string(next.join("bundle.pem")).context("read the new root")?;
    let also_trusted = ca.keys().join("also-trusted.pem");
    let put = |text: String| -> Result<()> {
        let aside = ca.dir().join("aside.pem");
        fs::write(&aside, text)?;
        fs::rename(&aside, &also_trusted).context("put also-trusted.pem in place")
    };
    put(format!("{old}{new}"))?;
    all_are_renewed(lab, "with both roots trusted")?;
    fs::rename(next.join("root.pem"), ca.keys().join("root.pem")).context("replace the root")?;
    all_are_renewed(lab, "by the new root")?;
    fs::remove_file(&also_trusted).context("withdraw the old root")?;
    all_are_renewed(lab, "with the old root withdrawn")?;
    equal("the bundle", fs::read_to_string(ca.bundle())?, new)?;
    equal("roots", ca.metrics()?.sum("mesh_ca_roots", &[]), 1.0)
}

/// Two renewals of each: one may have been asked for just before the step.
pub(super) fn all_are_renewed(lab: &Running, step: &str) -> Result<()> {
    let before = certificates(lab)?;
    until(LIFE * 3, &format!("every certificate is renewed {step}"), || {
        let now = certificates(lab)?;
        Ok(before.iter().all(|old| {
            now.iter()
                .any(|new| new.is_of(old) && new.renewals >= old.renewals + 2)
        }))
    })
    .map(drop)
}

fn without_the_ca_traffic_goes_on_until_expiry_is_refused_then_and_comes_back(lab: &Running) -> Result<()> {
    let ca = Authority::of(lab)?;
    let greeted = || -> Result<bool> {
        let said = python(
            lab,
            CLIENT,
            "tcp_client.py",
            &["--listen-first", "--timeout", "3", "greeter", "7000"],
        )?;
        Ok(text(&said, "received").is_ok_and(|line| line.starts_with("220")))
    };
    ensure!(greeted()?, "no greeting before");
    ca.kill()?;
    let serials = || -> Result<Vec<_>> { Ok(certificates(lab)?.into_iter().map(|one| one.serial).collect()) };
    let at_the_end = serials()?;
    ensure!(greeted()?, "no greeting right after the ca was killed");
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
    // Longer than until renewal, which is at half of the life.
    until(LIFE, "an overdue certificate is counted and still used", || {
        let overdue = lab.metrics("node-a")?.sum("mesh_certificates_overdue", &[]);
        Ok(overdue > 0.0 && greeted()?)
    })?;
    equal("certificates", serials()?, at_the_end)?;
    until(LIFE * 2, "an expired certificate is not used", || Ok(!greeted()?))?;
    // A pooled connection, which was opened in time, carries no new request either.
    until(LIFE, "an expired connection is not used", || {
        Ok(get(lab, CLIENT, "http://far/")?.status != 200)
    })?;
    let status = lab.status("node-a")?.to_string();
    ensure!(
        status.contains("cannot reach the ca"),
        "status does not say why: {status}"
    );
    ca.start()?;
    until(LIFE * 2, "the certificates are back", greeted)?;
    until(LIFE * 2, "no certificate is overdue", || {
        let overdue = |node| -> Result<f64> { Ok(lab.metrics(node)?.sum("mesh_certificates_overdue", &[])) };
        Ok(overdue("node-a")? + overdue("node-b")? < 0.5)
    })
    .map(drop)
}

fn an_agent_that_starts_without_the_ca_refuses_and_says_why_and_sends_no_plaintext(
    lab: &Running,
) -> Result<()> {
    let ca = Authority::of(lab)?;
    lab.end_agent("node-a", Signal::SIGTERM)?;
    ca.kill()?;
    let capture = Capture::start(lab, "no-ca")?;
    lab.start_agent_with("node-a", &ca.agent_arguments("node-a"))?;
    lab.wait_ready("node-a")?;
    for url in ["http://far/seen-by-nobody", "http://vault.strict/seen-by-nobody"] {
        let reply = get(lab, CLIENT, url)?;
        ensure!(reply.status != 200, "{url} answers without a certificate");
    }
    let status = lab.status("node-a")?.to_string();
    ensure!(
        status.contains("cannot reach the ca"),
        "status does not say why: {status}"
    );
    ca.start()?;
    until(LIFE * 2, "the agent has certificates", || {
        Ok(get(lab, CLIENT, "http://far/")?.status == 200)
    })?;
    let wire = capture.stop()?;
    ensure!(!wire.contains(b"seen-by-nobody"), "a path was on the wire");
    Ok(())
}

/// Runs the generated client on a node with that node's token.
fn generated_client(lab: &Running, node: &str, identity: &str) -> Result<Value> {
    let token = Authority::of(lab)?.token(node);
    client_with_token(lab, node, &token, identity)
}

/// Runs the generated client on a node with any token.
pub(super) fn client_with_token(lab: &Running, node: &str, token: &Path, identity: &str) -> Result<Value> {
    let ca = Authority::of(lab)?;
    let programs = lab.state.input.join("../programs/ca_client.py");
    let work = ca.dir().join("generated");
    let python = lab.state.tools.iter().map(|dir| dir.join("python3"));
    let python = python
        .into_iter()
        .find(|path| path.exists())
        .context("no python3 among the lab's tools")?;
    let arguments = [
        python,
        programs,
        ca.addr().to_string().into(),
        ca.bundle(),
        token.to_owned(),
        identity.into(),
        work,
    ];
    let program: Vec<_> = arguments.iter().map(|word| word.display().to_string()).collect();
    let place = sandbox::observer(&lab.site, &lab.site.node_netns(node));
    let output = process::run(&mut place.command(&program)?, Duration::from_mins(1))?.success()?;
    serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {}", output.stdout))
}

/// What an agent's status says of one identity.
pub(super) struct Certificate {
    node: &'static str,
    identity: String,
    pub(super) expires: Option<u64>,
    serial: Option<String>,
    renewals: u64,
}

impl Certificate {
    fn is_of(&self, other: &Self) -> bool {
        (self.node, &self.identity) == (other.node, &other.identity)
    }
}

pub(super) fn certificates(lab: &Running) -> Result<Vec<Certificate>> {
    let mut found = Vec::new();
    for node in NODES {
        let status = lab.status(node)?;
        let lines = status
            .get("certificates")
            .and_then(Value::as_array)
            .context("the status has no certificates")?;
        for line in lines {
            found.push(Certificate {
                node,
                identity: text(line, "identity")?.to_owned(),
                expires: line.get("expires_unix_s").and_then(Value::as_u64),
                serial: line.get("serial").and_then(Value::as_str).map(str::to_owned),
                renewals: line.get("renewals").and_then(Value::as_u64).unwrap_or_default(),
            });
        }
    }
    ensure!(!found.is_empty(), "no certificate on either node");
    Ok(found)
}
