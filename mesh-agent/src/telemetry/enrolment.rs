//! How pods came to be enrolled.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::mesh::registered;

/// Families of enrolment.
#[derive(Debug)]
pub struct EnrolmentMetrics {
    late: Counter,
    open_before: Counter,
}

impl EnrolmentMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            late: registered(
                registry,
                (
                    "mesh_pods_enrolled_late",
                    "Pods that ran already when they were enrolled",
                ),
            ),
            open_before: registered(
                registry,
                (
                    "mesh_connections_before_enrolment",
                    "Connections that pods had open when they were enrolled, and that stay past the mesh",
                ),
            ),
        }
    }

    /// A pod joined that had `open` connections.
    pub fn joined_late(&self, open: u64) {
        self.late.inc();
        self.open_before.inc_by(open);
    }
}
