//! What was refused since one pod of the node had too much of it.

use std::collections::HashSet;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::PeerLabels;
use super::labels::UNKNOWN;
use super::mesh::{Direction, registered};

/// The families that name a pod of this node.
#[derive(Debug)]
pub(super) struct CrowdingMetrics {
    handshakes: Family<Labels, Counter>,
    limits: Family<Labels, Counter>,
    /// The pods that have series of their own: as many as there are on a node, and those that left it.
    known: Mutex<HashSet<(String, String)>>,
}

type Labels = [(&'static str, String); 4];

impl CrowdingMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            handshakes: registered(
                registry,
                (
                    "mesh_handshakes_refused",
                    "TLS handshakes that were not begun, since a pod of this node had too many",
                ),
            ),
            limits: registered(
                registry,
                (
                    "mesh_pod_limits_refused",
                    "Connections and requests that were refused, since a pod of this node had too many",
                ),
            ),
            known: Mutex::default(),
        }
    }

    pub(super) fn handshake(&self, direction: Direction, pod: &PeerLabels, reason: &'static str) {
        let labels = self.labels(direction, pod, ("reason", reason));
        self.handshakes.get_or_create(&labels).inc();
    }

    pub(super) fn limit(&self, direction: Direction, pod: &PeerLabels, limit: &'static str) {
        let labels = self.labels(direction, pod, ("limit", limit));
        self.limits.get_or_create(&labels).inc();
    }

    fn labels(
        &self,
        direction: Direction,
        pod: &PeerLabels,
        (what, value): (&'static str, &'static str),
    ) -> Labels {
        let direction = match direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        let (namespace, workload) = self.of_bounded_number(pod);
        [
            ("namespace", namespace),
            ("workload", workload),
            ("direction", direction.to_owned()),
            (what, value.to_owned()),
        ]
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
