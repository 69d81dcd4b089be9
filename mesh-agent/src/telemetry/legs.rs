//! Bytes between applications and their agent that went past TCP.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::mesh::{MeshMetrics, family};

/// Counted every so many messages, and when a connection has sent or received its end; the last of one that is reset may be
/// missing. Clones are the same.
#[derive(Debug, Clone)]
pub struct LegBytes {
    /// That the agent sent.
    pub to_application: Counter,
    /// That the agent received.
    pub from_application: Counter,
}

impl LegBytes {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let [to_application, from_application] = family(
            registry,
            (
                "mesh_leg_spliced_bytes",
                "Bytes between applications and this agent that were spliced past TCP",
            ),
            ("direction", ["to_application", "from_application"]),
        );
        Self {
            to_application,
            from_application,
        }
    }
}

impl Default for LegBytes {
    /// Of nobody's: for a trial.
    fn default() -> Self {
        Self {
            to_application: Counter::default(),
            from_application: Counter::default(),
        }
    }
}

impl MeshMetrics {
    /// To count them.
    pub fn leg_bytes(&self) -> LegBytes {
        self.legs.clone()
    }
}
