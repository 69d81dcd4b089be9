//! What the demo observed, and what of it is not as it should be. Written by `--report`.
//!
//! It must not hold anything that was not observed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use mesh_tests::running::Running;
use mesh_tests::wire::Wire;
use serde::Serialize;

/// The facts; docs/reports.md says what each is.
#[derive(Debug, Default, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the report is flat, one key a fact")]
pub(crate) struct Facts {
    pub(crate) split: BTreeMap<String, u64>,
    pub(crate) paths: BTreeMap<&'static str, u64>,
    /// What the agents counted of each path, among all HTTP requests of the demo.
    pub(crate) paths_by_agents: BTreeMap<String, f64>,
    pub(crate) requests: u64,
    pub(crate) requests_failed: u64,
    pub(crate) failures: Vec<String>,
    pub(crate) protocols: BTreeMap<&'static str, String>,
    pub(crate) client_address_preserved: bool,
    pub(crate) client_addresses: Vec<SeenAddress>,
    pub(crate) strict_refused_plaintext: bool,
    pub(crate) strict_let_the_mesh_in: bool,
    pub(crate) wire_tls_packets: u64,
    pub(crate) wire_plaintext_packets: u64,
    pub(crate) wire_plaintext_samples: Vec<String>,
    pub(crate) wire_unjudged_packets: u64,
    pub(crate) wire_connections: u64,
    pub(crate) wire_ports: BTreeSet<u16>,
    pub(crate) wire_shows_secret: bool,
    pub(crate) identities: BTreeSet<String>,
    pub(crate) certificate_names: Vec<String>,
    pub(crate) wrk_requests_per_second: f64,
    pub(crate) reporters: BTreeMap<String, MetricSample>,
}

/// The address that a server saw, and the client's own.
#[derive(Debug, Serialize)]
pub(crate) struct SeenAddress {
    pub(crate) server: String,
    pub(crate) path: &'static str,
    pub(crate) seen: String,
    pub(crate) own: String,
}

/// One sample of `istio_requests_total`.
#[derive(Debug, Serialize)]
pub(crate) struct MetricSample {
    pub(crate) node: String,
    pub(crate) value: f64,
    pub(crate) labels: BTreeMap<String, String>,
}

impl MetricSample {
    /// Its most telling labels.
    pub(crate) fn summary(&self) -> String {
        let label = |name: &str| self.labels.get(name).map_or("?", String::as_str);
        format!(
            "{} → {} {} {} {}",
            label("source_workload"),
            label("destination_workload"),
            label("request_protocol"),
            label("response_code"),
            label("connection_security_policy")
        )
    }
}

impl Facts {
    /// Counts an attempt to get an answer.
    pub(crate) fn request(&mut self, failure: Option<String>) {
        self.requests += 1;
        if let Some(failure) = failure {
            self.requests_failed += 1;
            if self.failures.len() < 20 {
                self.failures.push(failure);
            }
        }
    }

    /// Notes which address a server saw.
    pub(crate) fn saw(&mut self, seen: SeenAddress) {
        self.client_addresses.push(seen);
        self.client_address_preserved = self.client_addresses.iter().all(|one| one.seen == one.own);
    }

    /// Takes over what was on the wire.
    pub(crate) fn wire(&mut self, wire: &Wire, secret: &str) {
        self.wire_tls_packets = wire.tls_packets;
        self.wire_plaintext_packets = wire.plaintext_packets;
        self.wire_plaintext_samples.clone_from(&wire.plaintext_samples);
        self.wire_unjudged_packets = wire.unjudged_packets;
        self.wire_connections = wire.connections;
        self.wire_ports.clone_from(&wire.ports);
        self.wire_shows_secret = wire.contains(secret.as_bytes());
    }

    /// Takes over what the agents counted: identities of all samples, and the largest sample of each reporter.
    pub(crate) fn metrics(&mut self, lab: &Running) -> Result<()> {
        for node in lab.state.nodes.keys() {
            let metrics = lab.metrics(node)?;
            for sample in metrics.matching("mesh_requests_path_total", &[]) {
                let path = sample.labels.get("path").cloned().unwrap_or_default();
                *self.paths_by_agents.entry(path).or_default() += sample.value;
            }
            for sample in metrics.matching("istio_requests_total", &[]) {
                let principals = ["source_principal", "destination_principal"];
                let named = principals
                    .into_iter()
                    .filter_map(|label| sample.labels.get(label));
                self.identities
                    .extend(named.filter(|name| name.starts_with("spiffe://")).cloned());
                let Some(reporter) = sample.labels.get("reporter").cloned() else {
                    continue;
                };
                let is_largest = self
                    .reporters
                    .get(&reporter)
                    .is_none_or(|known| sample.value > known.value);
                if is_largest {
                    let labels = sample.labels.clone();
                    let largest = MetricSample {
                        node: node.clone(),
                        value: sample.value,
                        labels,
                    };
                    self.reporters.insert(reporter, largest);
                }
            }
        }
        Ok(())
    }

    /// What is not as it should be.
    pub(crate) fn differences(&self) -> Vec<String> {
        let claims = [self.traffic_claims(), self.wire_claims()].concat();
        let broken = claims.into_iter().filter(|(holds, _)| !holds);
        broken.map(|(_, otherwise)| otherwise).collect()
    }

    fn traffic_claims(&self) -> Vec<(bool, String)> {
        let version = |name: &str| self.split.get(name).copied().unwrap_or(0);
        let (v1, v2) = (version("v1"), version("v2"));
        let are_all_taken = ["same_node", "other_node", "plain"]
            .iter()
            .all(|path| self.paths.contains_key(path));
        let failures = self.failures.join(", ");
        vec![
            (
                self.requests > 0 && self.requests_failed == 0,
                format!(
                    "{} of {} requests failed: {failures}",
                    self.requests_failed, self.requests
                ),
            ),
            // Five standard deviations of 1000 draws at 90 in 100 are 47.
            (
                (853..=947).contains(&v1) && v1 + v2 == 1000,
                format!("a split of 90/10 gave {:?}", self.split),
            ),
            (
                are_all_taken,
                format!("not every path was taken: {:?}", self.paths),
            ),
            (
                self.client_address_preserved,
                format!("servers saw other addresses: {:?}", self.client_addresses),
            ),
            (
                self.strict_refused_plaintext,
                "STRICT let plaintext in".to_owned(),
            ),
            (self.strict_let_the_mesh_in, "STRICT refused the mesh".to_owned()),
        ]
    }

    fn wire_claims(&self) -> Vec<(bool, String)> {
        let (plaintext, samples) = (self.wire_plaintext_packets, &self.wire_plaintext_samples);
        let have_both = ["source", "destination"]
            .iter()
            .all(|name| self.reporters.contains_key(*name));
        vec![
            (self.wire_tls_packets > 0, "no TLS on the wire".to_owned()),
            (
                plaintext == 0,
                format!("{plaintext} packets of plaintext on the wire: {samples:?}"),
            ),
            (
                self.wire_unjudged_packets == 0,
                format!(
                    "the capture missed packets before {} others",
                    self.wire_unjudged_packets
                ),
            ),
            (
                !self.wire_shows_secret,
                "the secret word was seen on the wire".to_owned(),
            ),
            (
                self.identities.len() >= 3,
                format!("few identities: {:?}", self.identities),
            ),
            (
                self.certificate_names.len() == 1,
                format!(
                    "a certificate with other than one name: {:?}",
                    self.certificate_names
                ),
            ),
            (have_both, "a reporter has no sample".to_owned()),
        ]
    }
}
