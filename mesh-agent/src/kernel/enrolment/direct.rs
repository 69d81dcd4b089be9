//! Who is hooked, for those who must know which flows both of whose ends the hooks see.

use std::sync::Arc;

use crate::kernel::direct::DirectTable;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::enrolment::present::Standing;
use crate::pod::LocalPod;

impl Enrolment {
    /// The pods that are served, with the facts that they were enrolled with.
    pub fn present(&self) -> Vec<LocalPod> {
        let present = self.present.values();
        let pods = present.filter(|pod| matches!(pod.standing, Standing::Served(_)));
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
