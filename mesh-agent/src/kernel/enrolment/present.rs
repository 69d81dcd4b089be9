//! Who is hooked, for those who must know which flows both of whose ends the hooks see.

use std::sync::Arc;

use crate::kernel::direct::DirectTable;
use crate::kernel::enrolment::Enrolment;
use crate::pod::LocalPod;

impl Enrolment {
    /// The pods whose hooks are in place, with the facts that they were enrolled with.
    pub fn present(&self) -> Vec<LocalPod> {
        let pods = self.present.values();
        pods.map(|pod| LocalPod {
            workload: Arc::clone(&pod.workload),
            netns: Arc::clone(&pod.site.netns),
            flows: self.kernel.flows(),
        })
        .collect()
    }

    /// What the hooks are told of direct flows, and what they tell.
    pub fn direct(&self) -> Arc<dyn DirectTable> {
        self.kernel.direct()
    }
}
