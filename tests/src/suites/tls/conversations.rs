//! Conversations by tlslite-ng, as tlsfuzzer has them: a TLS library that nobody here wrote, made to break rules.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::rogue::{CLIENT, FAR, ROGUE, certify, mesh_root};
use crate::agent;
use crate::running::Running;
use crate::suites::ask::{addresses, equal, get, python, text};

/// What ends otherwise, how, and why that is no weakness.
const EXPLAINED: [(&str, &str, &str); 10] = [
    ("1.1 at most", BYTES, NO_HELLO),
    ("1.0 at most", BYTES, NO_HELLO),
    ("no suite", BYTES, NO_HELLO),
    ("no signature_algorithms", BYTES, NO_HELLO),
    ("no key_share", "handshake_failure", ALERT),
    ("no supported_groups", "handshake_failure", ALERT),
    ("a heartbeat", "decode_error", ALERT),
    ("a message that is cut by data", "closed", ALERT),
    ("a record of no kind", "closed", ALERT),
    (
        "an empty handshake record",
        "answered",
        "rustls passes over a record of nothing; no message can be cut by it",
    ),
];
/// What tlslite-ng makes of an answer in plaintext.
const BYTES: &str = "the client found illegal_parameter";
const NO_HELLO: &str =
    "no ClientHello that rustls reads, so the application's own bytes; STRICT refuses them";
const ALERT: &str = "refused as it must be; rustls tells it by another alert, or by none";

pub(super) fn conversations_end_as_rfc_8446_wants(lab: &Running) -> Result<()> {
    certify(lab, ROGUE, &mesh_root(lab), "talker", "good", super::CLIENT_ID)?;
    let node = lab.agent("node-b")?;
    let before = agent::usage(node)?;
    let far = addresses(lab, FAR)?[0].to_string();
    let said = python(
        lab,
        ROGUE,
        "tls_conversations.py",
        &["talker", "mesh-tcp", &far, "8080"],
    )?;
    let count = said.get("conversations").and_then(Value::as_u64);
    ensure!(
        count.unwrap_or_default() >= 60,
        "too few to prove anything: {said}"
    );
    let wrong = said.get("wrong").and_then(Value::as_object);
    for (what, how) in wrong.context("nothing is said of what went wrong")? {
        let is_explained = |(known, came, _): &(&str, &str, &str)| {
            what == known && text(how, "came").is_ok_and(|said| said == *came)
        };
        ensure!(
            EXPLAINED.iter().any(is_explained),
            "{what} ended otherwise: {how}"
        );
    }
    let after = agent::usage(node)?;
    ensure!(
        after.rss_kib < before.rss_kib + 16 * 1024,
        "the agent grew from {} to {} KiB",
        before.rss_kib,
        after.rss_kib
    );
    equal("status", get(lab, CLIENT, "http://far/")?.status, 200)
}
