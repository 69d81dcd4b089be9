//! SPIRE: a real server and real agents issue all certificates, rotate them, and go away.
//!
//! The claims follow each other: the first starts SPIRE and gives it to both agents, the others leave it running.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ask::{addresses, equal, get, python, text, until};
use super::tls::rogue::{ROGUE, call, certify, failures as handshake_failures, scratch};
use super::{Claim, claims, steady};
use crate::running::Running;
use crate::spire::{LIFE, Spire, delegate};

pub(super) const CLAIMS: &[Claim] = claims![
    agents_of_both_nodes_take_all_certificates_from_spire,
    openssl_verifies_a_workload_against_spires_bundle,
    svids_of_half_a_minute_rotate_under_load_and_no_request_fails,
    spires_own_key_is_rotated_under_load_and_no_request_fails,
    who_spire_federates_with_may_call_until_that_is_withdrawn,
    an_entry_that_is_taken_away_is_named_and_only_its_identity_suffers,
    an_agent_that_is_no_authorized_delegate_is_told_so,
    while_the_spire_agent_is_stopped_traffic_goes_on_until_expiry_and_comes_back_with_it,
];

const NODES: [&str; 2] = ["node-a", "node-b"];
const CLIENT: &str = "shop/client";
const FAR: &str = "spiffe://cluster.local/ns/shop/sa/far";

fn agents_of_both_nodes_take_all_certificates_from_spire(lab: &Running) -> Result<()> {
    let identities: BTreeSet<_> = certificates(lab)?.into_iter().map(|one| one.identity).collect();
    let identities: Vec<_> = identities.into_iter().collect();
    ensure!(identities.len() > 5, "too few identities to prove anything");
    let spire = Spire::of(lab)?;
    spire.start_server()?;
    spire.register_delegates()?;
    spire.register(&identities)?;
    for node in NODES {
        spire.start_agent(node, &delegate())?;
        lab.end_agent(node, Signal::SIGTERM)?;
        lab.start_agent_with(node, &spire.agent_arguments(node))?;
    }
    for node in NODES {
        lab.wait_ready(node)?;
    }
    until(LIFE, "every identity has a certificate", || {
        Ok(certificates(lab)?.iter().all(|one| one.serial.is_some()))
    })?;
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
    equal(
        "a strict pod",
        get(lab, CLIENT, "http://vault.strict/")?.status,
        200,
    )
}

fn openssl_verifies_a_workload_against_spires_bundle(lab: &Running) -> Result<()> {
    let bundle = lab.site.scratch(&CLIENT.parse()?).join("spire.pem");
    fs::write(&bundle, Spire::of(lab)?.bundle()?).context("write SPIRE's bundle")?;
    let [address, _] = addresses(lab, "shop/far")?;
    // The server shows itself before it asks for the client's certificate, which openssl has none of.
    let script = format!(
        "openssl s_client -connect {address}:8080 -alpn mesh-h2 -CAfile {bundle} </dev/null 2>&1 | tee $SCRATCH/said; \
         sed -n '/BEGIN/,/END/p' $SCRATCH/said | openssl x509 -noout -text",
        bundle = bundle.display(),
    );
    let said = lab.exec("outside/plain", &["sh", "-c", &script])?.stdout;
    for wanted in ["Verify return code: 0 (ok)", &format!("URI:{FAR}"), "O = SPIRE"] {
        ensure!(said.contains(wanted), "no {wanted:?} in {said}");
    }
    Ok(())
}

fn svids_of_half_a_minute_rotate_under_load_and_no_request_fails(lab: &Running) -> Result<()> {
    steady::beside(lab, CLIENT, 300.0, || {
        for round in ["once", "twice"] {
            all_are_renewed(lab, round)?;
        }
        Ok(())
    })
}

fn spires_own_key_is_rotated_under_load_and_no_request_fails(lab: &Running) -> Result<()> {
    let spire = Spire::of(lab)?;
    let old = spire.authority("show", None)?;
    let before = spire.bundle()?;
    steady::beside(lab, CLIENT, 300.0, || {
        let next = spire.authority("prepare", None)?;
        roots_are(lab, 2)?;
        spire.authority("activate", Some(&next))?;
        all_are_renewed(lab, "by the new key")?;
        spire.authority("taint", Some(&old))?;
        all_are_renewed(lab, "with the old key tainted")?;
        spire.authority("revoke", Some(&old))?;
        roots_are(lab, 1)?;
        all_are_renewed(lab, "with the old key revoked")
    })?;
    let now = spire.bundle()?;
    equal("roots", now.matches("BEGIN CERTIFICATE").count(), 1)?;
    ensure!(now != before, "SPIRE has the same root as before");
    openssl_verifies_a_workload_against_spires_bundle(lab)
}

fn who_spire_federates_with_may_call_until_that_is_withdrawn(lab: &Running) -> Result<()> {
    let spire = Spire::of(lab)?;
    python(lab, ROGUE, "tls_peer.py", &["root", "neighbour"])?;
    let neighbour = scratch(lab, ROGUE)?.join("neighbour.pem");
    let identity = "spiffe://far.example/ns/shop/sa/client";
    certify(lab, ROGUE, &neighbour, "neighbour-client", "good", identity)?;
    // By a root that vouches for nobody of this mesh.
    let ours = "spiffe://cluster.local/ns/shop/sa/client";
    certify(lab, ROGUE, &neighbour, "usurper", "good", ours)?;
    let is_let_in = |name| Ok::<_, anyhow::Error>(call(lab, name)?.contains("200 OK"));
    let untrusted = || handshake_failures(lab, "node-b", "server", "untrusted");
    let before = untrusted()?;
    ensure!(!is_let_in("neighbour-client")?, "a stranger is let in");
    ensure!(untrusted()? > before, "it was refused for another reason");

    spire.federate("far.example", &scratch(lab, ROGUE)?.join("neighbour.crt"))?;
    until(LIFE * 2, "the neighbour is let in", || {
        is_let_in("neighbour-client")
    })?;
    ensure!(!is_let_in("usurper")?, "a root of another mesh vouches for ours");

    spire.part("far.example")?;
    until(LIFE * 4, "the neighbour is a stranger again", || {
        Ok(!is_let_in("neighbour-client")?)
    })?;
    equal("our own", get(lab, CLIENT, "http://far/")?.status, 200)
}

fn an_entry_that_is_taken_away_is_named_and_only_its_identity_suffers(lab: &Running) -> Result<()> {
    let spire = Spire::of(lab)?;
    let counted = failures(lab, "node-b", "no_entry")?;
    spire.deregister(FAR)?;
    until(LIFE, "the status names the selectors", || {
        let status = lab.status("node-b")?.to_string();
        Ok(status.contains("spire has no entry for selectors k8s:ns:shop k8s:sa:far"))
    })?;
    ensure!(
        failures(lab, "node-b", "no_entry")? > counted + 0.5,
        "the failure is not counted"
    );
    until(LIFE * 2, "an expired certificate is not used", || {
        Ok(get(lab, CLIENT, "http://far/")?.status != 200)
    })?;
    equal(
        "another pod",
        get(lab, CLIENT, "http://vault.strict/")?.status,
        200,
    )?;
    spire.register(&[FAR.to_owned()])?;
    until(LIFE * 2, "the pod is back", || {
        Ok(get(lab, CLIENT, "http://far/")?.status == 200)
    })
    .map(drop)
}

fn an_agent_that_is_no_authorized_delegate_is_told_so(lab: &Running) -> Result<()> {
    let spire = Spire::of(lab)?;
    let counted = failures(lab, "node-a", "denied")?;
    spire.stop_agent("node-a")?;
    spire.start_agent("node-a", "spiffe://cluster.local/somebody-else")?;
    until(LIFE, "the status says why", || {
        let status = lab.status("node-a")?.to_string();
        Ok(status.contains("caller not configured as an authorized delegate"))
    })?;
    ensure!(
        failures(lab, "node-a", "denied")? > counted + 0.5,
        "the failure is not counted"
    );
    spire.stop_agent("node-a")?;
    spire.start_agent("node-a", &delegate())?;
    until(LIFE * 4, "no identity of the node complains", || {
        Ok(certificates(lab)?.iter().all(|one| !one.is_failing))
    })?;
    until(LIFE * 2, "traffic flows", || {
        Ok(get(lab, CLIENT, "http://far/")?.status == 200)
    })
    .map(drop)
}

fn while_the_spire_agent_is_stopped_traffic_goes_on_until_expiry_and_comes_back_with_it(
    lab: &Running,
) -> Result<()> {
    let spire = Spire::of(lab)?;
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
    let counted = failures(lab, "node-a", "unreachable")?;
    for node in NODES {
        spire.stop_agent(node)?;
    }
    ensure!(greeted()?, "no greeting right after SPIRE was stopped");
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)?;
    until(LIFE, "the status says why", || {
        Ok(lab.status("node-a")?.to_string().contains("cannot reach spire"))
    })?;
    ensure!(
        failures(lab, "node-a", "unreachable")? > counted + 0.5,
        "the failure is not counted"
    );
    until(LIFE * 2, "an expired certificate is not used", || Ok(!greeted()?))?;
    for node in NODES {
        spire.start_agent(node, &delegate())?;
    }
    until(LIFE * 4, "the certificates are back", greeted).map(drop)
}

/// Two renewals of each: one may have been on its way.
fn all_are_renewed(lab: &Running, when: &str) -> Result<()> {
    let before = certificates(lab)?;
    until(LIFE * 4, &format!("every certificate is renewed {when}"), || {
        let now = certificates(lab)?;
        Ok(before.iter().all(|old| {
            now.iter()
                .any(|new| new.is_of(old) && new.renewals >= old.renewals + 2)
        }))
    })
    .map(drop)
}

/// What the mesh's agents heard last of SPIRE's roots.
fn roots_are(lab: &Running, count: u64) -> Result<()> {
    until(LIFE * 2, &format!("both agents know {count} roots"), || {
        for node in NODES {
            let log = fs::read_to_string(crate::agent::log(&lab.site, node, "stderr"))?;
            let mut lines = log
                .lines()
                .filter(|line| line.contains("spire names other roots"));
            let said: Value = serde_json::from_str(lines.next_back().context("the log names no roots")?)?;
            if said.get("roots").and_then(Value::as_u64) != Some(count) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .map(drop)
}

fn failures(lab: &Running, node: &str, reason: &str) -> Result<f64> {
    let labels = [("reason", reason)];
    Ok(lab.metrics(node)?.sum("mesh_certificate_failures_total", &labels))
}

/// What an agent's status says of one identity.
struct Certificate {
    node: &'static str,
    identity: String,
    serial: Option<String>,
    renewals: u64,
    is_failing: bool,
}

impl Certificate {
    fn is_of(&self, other: &Self) -> bool {
        (self.node, &self.identity) == (other.node, &other.identity)
    }
}

fn certificates(lab: &Running) -> Result<Vec<Certificate>> {
    let mut found = Vec::new();
    for node in NODES {
        let status = lab.status(node)?;
        let lines = status.get("certificates").and_then(Value::as_array);
        for line in lines.context("the status has no certificates")? {
            found.push(Certificate {
                node,
                identity: text(line, "identity")?.to_owned(),
                serial: line.get("serial").and_then(Value::as_str).map(str::to_owned),
                renewals: line.get("renewals").and_then(Value::as_u64).unwrap_or_default(),
                is_failing: line.get("last_error").is_some_and(|error| !error.is_null()),
            });
        }
    }
    ensure!(!found.is_empty(), "no certificate on either node");
    Ok(found)
}
