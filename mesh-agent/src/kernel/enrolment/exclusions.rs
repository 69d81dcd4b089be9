//! Keeps what is excluded for enrolled pods equal to what their facts say, without enrolling them anew: connections
//! that exist stay as they are.

use std::sync::Arc;

use crate::kernel::Kernel;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::status::{Change, Report};
use crate::mesh::exclusions::Exclusions;
use crate::mesh::workload::Workload;
use crate::pod::netns::NetnsCookie;

/// What is known of one pod's exclusions.
#[derive(Debug, Default)]
pub(super) struct Excluded {
    /// What the kernel was told last; `None` before that, and after it failed.
    told: Option<Exclusions>,
    /// Why it failed, as it was reported.
    fault: Option<String>,
}

impl Excluded {
    /// Tells the kernel where that is due; what changed by it.
    fn keep(&mut self, kernel: &mut dyn Kernel, netns: NetnsCookie, workload: &Workload) -> Option<Change> {
        let wanted = &workload.exclusions;
        if self.told.as_ref() == Some(wanted) {
            return None;
        }
        let is_news = self.told.is_some() || self.fault.is_some() || !wanted.is_empty();
        match kernel.exclude(netns, &workload.addrs, wanted) {
            Ok(()) => {
                self.told = Some(wanted.clone());
                self.fault = None;
                is_news.then_some(Change::ExclusionsChanged)
            }
            Err(error) => {
                let why = error.to_string();
                self.told = None;
                let is_known = self.fault.as_ref() == Some(&why);
                self.fault = Some(why.clone());
                (!is_known).then_some(Change::ExclusionsFailed { why })
            }
        }
    }
}

impl Enrolment {
    pub(super) fn keep_exclusions(&mut self, wanted: &[Arc<Workload>], reports: &mut Vec<Report>) {
        for workload in wanted {
            let Some(pod) = self.present.get_mut(&workload.uid) else {
                continue;
            };
            let netns = pod.site.netns.cookie();
            let change = pod.excluded.keep(self.kernel.as_mut(), netns, workload);
            reports.extend(change.map(|change| Report::new(workload, change)));
        }
    }
}
