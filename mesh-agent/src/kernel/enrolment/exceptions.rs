//! Keeps what is let past for enrolled pods equal to what their facts say, without enrolling them anew: connections
//! that exist stay as they are.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::kernel::enrolment::Enrolment;
use crate::kernel::status::{Change, Report};
use crate::kernel::{Exceptions, Kernel};
use crate::mesh::exclusions::Exclusions;
use crate::mesh::workload::Workload;
use crate::pod::netns::NetnsCookie;

/// What is known of one pod's exceptions.
#[derive(Debug, Default)]
pub(super) struct Excepted {
    /// What the kernel was told last; `None` before that, and after it failed.
    told: Option<Exceptions>,
    /// Why it failed, as it was reported.
    fault: Option<String>,
}

impl Excepted {
    /// Tells the kernel where that is due; what changed by it.
    fn keep(&mut self, kernel: &mut dyn Kernel, netns: NetnsCookie, workload: &Workload) -> Option<Change> {
        let wanted = Exceptions {
            exclusions: Exclusions::clone(&workload.exclusions),
            probe_ports: BTreeSet::clone(&workload.probe_ports),
        };
        if self.told.as_ref() == Some(&wanted) {
            return None;
        }
        // A pod that joins with probes only is like any other.
        let is_news = self.told.is_some() || self.fault.is_some() || !wanted.exclusions.is_empty();
        match kernel.except(netns, &workload.addrs, &wanted) {
            Ok(()) => {
                self.told = Some(wanted);
                self.fault = None;
                is_news.then_some(Change::ExceptionsChanged)
            }
            Err(error) => {
                let why = error.to_string();
                self.told = None;
                let is_known = self.fault.as_ref() == Some(&why);
                self.fault = Some(why.clone());
                (!is_known).then_some(Change::ExceptionsFailed { why })
            }
        }
    }
}

impl Enrolment {
    pub(super) fn keep_exceptions(&mut self, wanted: &[Arc<Workload>], reports: &mut Vec<Report>) {
        for workload in wanted {
            let pod = self.present.get_mut(&workload.uid);
            // The address of a pod that is superseded is another's, whose exceptions hold for it.
            let Some(pod) = pod.filter(|pod| pod.superseded_by().is_none()) else {
                continue;
            };
            let change = pod
                .excepted
                .keep(self.kernel.as_mut(), pod.site.netns.cookie(), workload);
            reports.extend(change.map(|change| Report::new(workload, change)));
        }
    }
}
