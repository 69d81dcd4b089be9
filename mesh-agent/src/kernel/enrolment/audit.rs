//! Compares what the kernel has with what it should have, and mends the difference.

use std::collections::HashMap;
use std::sync::Arc;

use crate::kernel::Part;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::status::{Change, Report};
use crate::mesh::workload::Workload;
use crate::pod::netns::NetnsCookie;

impl Enrolment {
    /// Links, pins, programs and map entries of every pod.
    pub(super) fn audit(&mut self, wanted: &[Arc<Workload>], reports: &mut Vec<Report>) {
        let mut mended = self.mended_exceptions();
        for pod in self.present.values_mut() {
            let wish = wanted.iter().find(|workload| workload.uid == pod.workload.uid);
            let fail_mode = wish.map_or(pod.fail_mode, |workload| workload.fail_mode);
            let mut parts = mended.remove(&pod.site.netns.cookie()).unwrap_or_default();
            match pod.mend(fail_mode, self.kernel.as_mut()) {
                Ok(others) => {
                    pod.unrepaired = None;
                    parts.extend(others);
                }
                Err(error) => {
                    let why = error.to_string();
                    let before = pod.unrepaired.replace(why.clone());
                    if before.as_ref() != Some(&why) {
                        reports.push(Report::new(&pod.workload, Change::Unrepaired { why }));
                    }
                }
            }
            if !parts.is_empty() {
                reports.push(Report::new(&pod.workload, Change::Repaired { parts }));
            }
        }
    }

    fn mended_exceptions(&mut self) -> HashMap<NetnsCookie, Vec<Part>> {
        let repaired = self.kernel.repair_exceptions().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot compare what the hooks let past with what they should");
            Vec::new()
        });
        let mut by_pod: HashMap<_, Vec<_>> = HashMap::new();
        for (netns, part) in repaired {
            by_pod.entry(netns).or_default().push(part);
        }
        by_pod
    }
}
