//! Handshakes that failed.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::mesh::{HandshakeSide, registered};

/// The families of handshakes with other agents.
#[derive(Debug)]
pub(super) struct HandshakeMetrics {
    failures: Family<[(&'static str, &'static str); 2], Counter>,
}

impl HandshakeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            failures: registered(
                registry,
                (
                    "mesh_handshake_failures",
                    "TLS handshakes with other agents that failed",
                ),
            ),
        }
    }

    pub(super) fn failed(&self, side: HandshakeSide, reason: &'static str) {
        let side = match side {
            HandshakeSide::Client => "client",
            HandshakeSide::Server => "server",
        };
        self.failures
            .get_or_create(&[("side", side), ("reason", reason)])
            .inc();
    }
}
