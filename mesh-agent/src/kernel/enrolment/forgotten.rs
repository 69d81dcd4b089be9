//! Pods that the facts have forgotten and that are there still, as one that was deleted without grace: they stay hooked and
//! are refused until they are gone, since unhooked they would speak plaintext.
//!
//! Must not know: why the facts forgot them.

use crate::capture::Leaving;
use crate::kernel::Orphan;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::enrolment::present::{Present, Standing};
use crate::kernel::placement::Learned;
use crate::kernel::status::{Change, Report};
use crate::mesh::workload::WorkloadUid;

/// Whether the facts have a pod of this uid, be it one that takes no part.
pub type IsKnown<'k> = &'k dyn Fn(&WorkloadUid) -> bool;

impl Enrolment {
    /// Refuses what was enrolled by a kubelet's tree and is in the facts no more; who was declared to be somewhere is no more
    /// there when nobody declares it.
    pub(super) fn forget(&mut self, is_known: IsKnown<'_>, reports: &mut Vec<Report>) {
        for (uid, pod) in &mut self.present {
            if is_known(uid) || pod.is_forgotten() || !pod.outlives_its_facts() {
                continue;
            }
            pod.standing = Standing::Forgotten;
            self.host.left(uid, Leaving::Gone);
            if let Err(error) = self.kernel.refuse(pod.site.netns.cookie()) {
                // Tried again by the audit.
                pod.unrepaired = Some(error.to_string());
            }
            reports.push(Report::new(&pod.workload, Change::Forgotten));
        }
    }

    /// Whether an earlier agent left the hooks of a pod that the facts have forgotten and that is there still.
    pub(super) fn is_forgotten(&self, orphan: &Orphan, is_known: IsKnown<'_>) -> bool {
        let mut of_orphan = self.locator.announced.at(&orphan.addrs);
        of_orphan.any(|uid| !is_known(&WorkloadUid::new(uid)))
    }
}

impl Present {
    pub(super) fn is_forgotten(&self) -> bool {
        matches!(self.standing, Standing::Forgotten)
    }

    /// Whether it stays hooked although nobody wants it.
    pub(super) fn is_held(&self, is_known: IsKnown<'_>) -> bool {
        self.is_forgotten() && !is_known(&self.workload.uid)
    }

    fn outlives_its_facts(&mut self) -> bool {
        self.whereabouts.learned() != Learned::Declared && self.whereabouts.is_still(&self.site)
    }
}
