//! How pods came to be enrolled.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::mesh::{family, registered};

/// Families of enrolment.
#[derive(Debug)]
pub struct EnrolmentMetrics {
    late: Counter,
    open_before: Counter,
    /// In the order of [`CniResult`].
    answers: [Counter; 3],
    repairs: Counter,
}

/// What the CNI plugin was told of a pod that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CniResult {
    /// Its traffic is captured.
    Enrolled,
    /// It takes no part.
    NotEnrolled,
    /// It could not be enrolled in time.
    Refused,
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
            answers: family(
                registry,
                (
                    "mesh_cni_requests",
                    "Pods that began, by what the CNI plugin was told of them",
                ),
                ("result", ["enrolled", "not_enrolled", "refused"]),
            ),
            repairs: registered(
                registry,
                (
                    "mesh_cni_repairs",
                    "Times that the CNI plugin was put back into the node's configuration",
                ),
            ),
        }
    }

    /// A pod joined that had `open` connections.
    pub fn joined_late(&self, open: u64) {
        self.late.inc();
        self.open_before.inc_by(open);
    }

    /// The CNI plugin was answered.
    pub fn cni_answered(&self, result: CniResult) {
        let [enrolled, not_enrolled, refused] = &self.answers;
        let counter = match result {
            CniResult::Enrolled => enrolled,
            CniResult::NotEnrolled => not_enrolled,
            CniResult::Refused => refused,
        };
        counter.inc();
    }

    /// Somebody had taken the CNI plugin out.
    pub fn cni_repaired(&self) {
        self.repairs.inc();
    }
}
