//! What Debian's testssl.sh finds at an inbound port. On request, since it takes minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ask::{addresses, text};
use super::tls::rogue::ROGUE;
use super::{Claim, claims};
use crate::running::Running;

pub(super) const CLAIMS: &[Claim] = claims![testssl_finds_no_weakness];

/// What testssl.sh 3.0.8 says above `INFO` of an agent, and why that is no weakness. A finding that is not here fails.
const EXPLAINED: [(&str, &str); 7] = [
    ("engine_problem", "this machine's OpenSSL has no GOST engine"),
    ("service", "no web server: HTTP is not tried"),
    (
        "cert_trust",
        "a workload is named by a URI, not by the address that is dialled",
    ),
    (
        "cert_chain_of_trust",
        "the chain ends in the mesh's own root, which no browser has",
    ),
    (
        "cert_expirationStatus",
        "a certificate lives a day and is renewed at half of it",
    ),
    ("cert_notAfter", "the same"),
    (
        "cert_revocation",
        "lists are given to agents as files; nobody is asked about a certificate",
    ),
];

fn testssl_finds_no_weakness(lab: &Running) -> Result<()> {
    let vault = addresses(lab, "strict/vault")?[0].to_string();
    let program = ["python3", "../programs/testssl.py", "mesh-h2", &vault, "8080"];
    let output = lab.exec_within(LIMIT, ROGUE, &program)?.success()?;
    let said: Value = serde_json::from_str(&output.stdout).context("testssl.py says no JSON")?;
    let findings = said.get("findings").and_then(Value::as_array);
    let findings = findings.context("testssl.sh found nothing at all")?;
    ensure!(findings.len() > 100, "too few findings to prove anything: {said}");
    let explained: BTreeMap<_, _> = EXPLAINED.into_iter().collect();
    let mut left = Vec::new();
    for finding in findings {
        let id = text(finding, "id")?;
        let is_good = ["OK", "INFO"].contains(&text(finding, "severity")?);
        if !is_good && !explained.contains_key(id) {
            left.push(finding.to_string());
        }
    }
    ensure!(left.is_empty(), "testssl.sh finds {}", left.join("\n"));
    for (id, wanted) in [("TLS1_3", "offered with final"), ("TLS1_2", "not offered")] {
        let found = findings.iter().find(|one| one["id"] == id);
        let found = text(found.with_context(|| format!("no finding {id}"))?, "finding")?;
        ensure!(found.contains(wanted), "{id}: {found}");
    }
    Ok(())
}

/// It makes some hundred connections, and calculates in bash.
const LIMIT: Duration = Duration::from_mins(15);
