//! What the CA service counts; it has a process, and so a registry, of its own.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::mesh::epoch_seconds;
use super::process::ProcessCollector;

/// The families of the CA. Clones are the same.
#[derive(Debug, Clone)]
pub struct CaMetrics {
    registry: Arc<Registry>,
    issued: Counter,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    handshakes: Counter,
    reloads: Family<[(&'static str, &'static str); 1], Counter>,
    roots: Gauge,
    expiry: Gauge,
    pods: Gauge,
}

impl CaMetrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let (issued, handshakes) = (Counter::default(), Counter::default());
        let (refused, reloads) = (Family::default(), Family::default());
        let (roots, expiry, pods) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("mesh_ca_issued", "Certificates that were signed", issued.clone());
        registry.register(
            "mesh_ca_refused",
            "Requests that were not signed",
            refused.clone(),
        );
        let help = "TLS handshakes with callers that failed";
        registry.register("mesh_ca_handshake_failures", help, handshakes.clone());
        let help = "Times that keys or tokens were read anew";
        registry.register("mesh_ca_reloads", help, reloads.clone());
        registry.register(
            "mesh_ca_roots",
            "Roots that agents are told to trust",
            roots.clone(),
        );
        registry.register_with_unit(
            "mesh_ca_expiry_timestamp",
            "When the signing certificate or one above it expires, since the epoch",
            Unit::Seconds,
            expiry.clone(),
        );
        let help = "Identities of pods on nodes that may be asked for";
        registry.register("mesh_ca_identities", help, pods.clone());
        registry.register_collector(Box::new(ProcessCollector));
        for result in ["ok", "failed"] {
            drop(Family::<_, Counter>::get_or_create(
                &reloads,
                &[("result", result)],
            ));
        }
        Self {
            registry: Arc::new(registry),
            issued,
            refused,
            handshakes,
            reloads,
            roots,
            expiry,
            pods,
        }
    }

    /// Everything as OpenMetrics text, version 1.0.0.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }

    /// A certificate was signed.
    pub fn issued(&self) {
        self.issued.inc();
    }

    /// A request was refused for `reason`, a word of a closed enum.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// A caller did not come through TLS.
    pub fn handshake_failed(&self) {
        self.handshakes.inc();
    }

    /// Files were read anew.
    pub fn reloaded(&self, is_ok: bool) {
        let result = if is_ok { "ok" } else { "failed" };
        self.reloads.get_or_create(&[("result", result)]).inc();
    }

    /// So many roots are trusted, and signing ends at `expiry`.
    pub fn keys(&self, roots: usize, expiry: SystemTime) {
        self.roots.set(i64::try_from(roots).unwrap_or(i64::MAX));
        self.expiry.set(epoch_seconds(expiry));
    }

    /// So many pairs of node and identity may be asked for.
    pub fn identities(&self, count: usize) {
        self.pods.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl Default for CaMetrics {
    fn default() -> Self {
        Self::new()
    }
}
