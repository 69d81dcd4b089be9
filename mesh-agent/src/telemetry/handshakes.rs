//! Handshakes that failed, and those that were not begun.

use std::collections::HashSet;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::PeerLabels;
use super::labels::UNKNOWN;
use super::mesh::{Direction, HandshakeSide, registered};

/// The families of handshakes with other agents.
#[derive(Debug)]
pub(super) struct HandshakeMetrics {
    failures: Family<[(&'static str, &'static str); 2], Counter>,
    refused: Family<RefusedLabels, Counter>,
    /// The pods that have a series of their own: as many as there are on a node, and those that left it.
    known: Mutex<HashSet<(String, String)>>,
}

type RefusedLabels = [(&'static str, String); 4];

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
            refused: registered(
                registry,
                (
                    "mesh_handshakes_refused",
                    "TLS handshakes that were not begun, since a pod of this node had too many",
                ),
            ),
            known: Mutex::default(),
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

    pub(super) fn refused(&self, direction: Direction, pod: &PeerLabels, reason: &'static str) {
        let direction = match direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        let (namespace, workload) = self.of_bounded_number(pod);
        let labels = [
            ("namespace", namespace),
            ("workload", workload),
            ("direction", direction.to_owned()),
            ("reason", reason.to_owned()),
        ];
        self.refused.get_or_create(&labels).inc();
    }

    /// The pod's namespace and workload; `unknown` once there are too many of them.
    fn of_bounded_number(&self, pod: &PeerLabels) -> (String, String) {
        let key = (pod.namespace().to_owned(), pod.workload().to_owned());
        let mut known = self.known.lock();
        if known.contains(&key) {
            return key;
        }
        if known.len() >= CAPACITY {
            return (UNKNOWN.to_owned(), UNKNOWN.to_owned());
        }
        known.insert(key.clone());
        key
    }
}

const CAPACITY: usize = 2_000;
