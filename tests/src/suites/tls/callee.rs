//! The dialling side: who answers with the wrong certificate.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::rogue::{BAD, CLIENT, FAR, LIMIT, certify, failures, is_logged, mesh_root, scratch};
use super::settings;
use crate::process;
use crate::running::Running;
use crate::suites::ask::{addresses, equal, get, python, until, url};

const FAR_ID: &str = "spiffe://cluster.local/ns/shop/sa/far";

/// Without its agent and hooks the pod's own program answers: what discovery says is then all that speaks for it.
pub(super) fn each_bad_certificate_of_a_callee_is_refused_for_its_own_reason(lab: &Running) -> Result<()> {
    lab.end_agent("node-b", Signal::SIGTERM)?;
    let mut command = Command::new(lab.site.agent_binary());
    command.args(["uninstall", "--node-name", "node-b"]);
    command.arg("--bpf-dir").arg(lab.site.bpf_mount("node-b"));
    command.arg("--state-dir").arg(lab.site.agent_state("node-b"));
    process::run(&mut command, LIMIT)?.success()?;
    let judged = judge_callees(lab);
    lab.start_agent_with("node-b", &settings(lab))?;
    lab.wait_ready("node-b")?;
    judged
}

fn judge_callees(lab: &Running) -> Result<()> {
    let root = mesh_root(lab);
    for (kind, reason) in BAD {
        certify(lab, FAR, &root, kind, kind, FAR_ID)?;
        is_not_taken_for_far(lab, kind, reason)?;
    }
    let near = "spiffe://cluster.local/ns/shop/sa/near";
    certify(lab, FAR, &root, "near", "good", near)?;
    is_not_taken_for_far(lab, "near", "identity")?;
    let foreign = "spiffe://other.example/ns/shop/sa/far";
    certify(lab, FAR, &root, "foreign", "good", foreign)?;
    is_not_taken_for_far(lab, "foreign", "trust_domain")?;
    python(lab, FAR, "tls_peer.py", &["root", "elsewhere"])?;
    let elsewhere = scratch(lab, FAR)?.join("elsewhere.pem");
    certify(lab, FAR, &elsewhere, "unknown", "good", FAR_ID)?;
    is_not_taken_for_far(lab, "unknown", "untrusted")
}

/// Lets a program with this certificate answer at an address of `shop/far`.
fn is_not_taken_for_far(lab: &Running, certificate: &str, reason: &str) -> Result<()> {
    let listening = scratch(lab, FAR)?.join("listening");
    if listening.exists() {
        fs::remove_file(&listening).context("forget the last server")?;
    }
    let before = failures(lab, "node-a", "client", reason)?;
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            python(
                lab,
                FAR,
                "tls_peer.py",
                &["server", certificate, "mesh-h2", "9443", "1"],
            )
        });
        until(LIMIT, "the rogue listens", || Ok(listening.exists()))?;
        let reply = get(lab, CLIENT, &url(addresses(lab, FAR)?[0], 9443, "/"))?;
        equal(&format!("answer by {certificate}"), reply.status, 503)?;
        let ends = server
            .join()
            .map_err(|_| anyhow::anyhow!("the server panicked"))??;
        ensure!(!ends.to_string().contains("accepted"), "{certificate}: {ends}");
        Ok(())
    })?;
    let counted = failures(lab, "node-a", "client", reason)? - before;
    equal(&format!("{certificate} counted as {reason}"), counted, 1.0)?;
    is_logged(lab, "node-a", "mTLS handshake failed", reason)
}
