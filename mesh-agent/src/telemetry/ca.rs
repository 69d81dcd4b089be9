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
    leads: Gauge,
    statuses: Family<[(&'static str, &'static str); 1], Counter>,
    events: Family<[(&'static str, &'static str); 1], Counter>,
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
        let leads = Gauge::default();
        let help = "Whether this CA is the one that writes status";
        registry.register("mesh_ca_leader", help, leads.clone());
        let (statuses, events) = (Family::default(), Family::default());
        let help = "Objects whose status was written";
        registry.register("mesh_ca_status_writes", help, statuses.clone());
        let help = "Events that were told of objects";
        registry.register("mesh_ca_events", help, events.clone());
        registry.register_collector(Box::new(ProcessCollector));
        for family in [&reloads, &statuses, &events] {
            for result in ["ok", "failed"] {
                drop(Family::<_, Counter>::get_or_create(family, &[("result", result)]));
            }
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
            leads,
            statuses,
            events,
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

    /// Whether it writes status.
    pub fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    /// A status was written, or could not be.
    pub fn status_written(&self, is_ok: bool) {
        let result = if is_ok { "ok" } else { "failed" };
        self.statuses.get_or_create(&[("result", result)]).inc();
    }

    /// So many events were told, and so many could not be.
    pub fn events(&self, told: u64, failed: u64) {
        self.events.get_or_create(&[("result", "ok")]).inc_by(told);
        self.events.get_or_create(&[("result", "failed")]).inc_by(failed);
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
