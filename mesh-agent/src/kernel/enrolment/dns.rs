//! Keeps DNS capture of enrolled pods equal to what their facts and the agent's settings say, without enrolling them
//! anew.

use std::sync::Arc;

use crate::capture::PodHost;
use crate::capture::dns::DnsListeners;
use crate::capture::listeners::PodPorts;
use crate::kernel::Kernel;
use crate::kernel::enrolment::Enrolment;
use crate::kernel::error::KernelError;
use crate::kernel::status::{Change, Report};
use crate::mesh::workload::Workload;
use crate::pod::LocalPod;

/// What is known of one pod's DNS.
#[derive(Debug, Default)]
pub(super) struct Dns {
    /// Whether it is captured; `None` before that was ever settled.
    is_captured: Option<bool>,
    /// Why it could not be settled, as it was reported.
    fault: Option<String>,
}

impl Enrolment {
    pub(super) fn keep_dns(&mut self, wanted: &[Arc<Workload>], reports: &mut Vec<Report>) {
        for workload in wanted {
            let pod = self.present.get_mut(&workload.uid);
            // A pod that is superseded is refused, and nobody answers it.
            let Some(pod) = pod.filter(|pod| pod.superseded_by().is_none()) else {
                continue;
            };
            let is_wanted = workload.dns_capture.unwrap_or(self.captures_dns);
            if pod.dns.is_captured == Some(is_wanted) {
                continue;
            }
            let local = LocalPod {
                workload: Arc::clone(workload),
                netns: Arc::clone(&pod.site.netns),
                flows: self.kernel.flows(),
            };
            let settling = Settling {
                kernel: self.kernel.as_mut(),
                host: self.host.as_ref(),
                pod: local,
            };
            let change = pod.dns.settle(settling, is_wanted, self.ports);
            reports.extend(change.map(|change| Report::new(workload, change)));
        }
    }
}

/// Those who take part when DNS capture of a pod changes.
struct Settling<'a> {
    kernel: &'a mut dyn Kernel,
    host: &'a dyn PodHost,
    pod: LocalPod,
}

impl Dns {
    /// Makes it what is wanted; what changed by it. After a failure DNS is not captured, if that can be had: a pod
    /// without names would be worse off than one without the mesh's.
    fn settle(&mut self, mut settling: Settling<'_>, is_wanted: bool, ports: PodPorts) -> Option<Change> {
        let settled = if is_wanted {
            settling.start(ports)
        } else {
            settling.end()
        };
        match settled {
            Ok(()) => {
                let is_news = self.is_captured.is_some() || self.fault.is_some() || is_wanted;
                self.is_captured = Some(is_wanted);
                self.fault = None;
                is_news.then_some(Change::DnsChanged {
                    is_captured: is_wanted,
                })
            }
            Err(error) => {
                let mut why = error.to_string();
                if let Err(left) = settling.end() {
                    why = format!("{why}; {left}");
                }
                self.is_captured = None;
                let is_known = self.fault.as_ref() == Some(&why);
                self.fault = Some(why.clone());
                (!is_known).then_some(Change::DnsFailed { why })
            }
        }
    }
}

impl Settling<'_> {
    /// Somebody answers before the first query comes.
    fn start(&mut self, ports: PodPorts) -> Result<(), KernelError> {
        let listeners = DnsListeners::open(&self.pod, ports.dns).map_err(KernelError::Listen)?;
        self.host.resolve(&self.pod.workload.uid, Some(listeners));
        self.kernel.capture_dns(self.pod.netns.cookie(), true)
    }

    fn end(&mut self) -> Result<(), KernelError> {
        let released = self.kernel.capture_dns(self.pod.netns.cookie(), false);
        self.host.resolve(&self.pod.workload.uid, None);
        released
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use mesh_common::dns::DNS_LISTENERS;

    use super::*;
    use crate::kernel::enrolment::tests::{Bench, bench, pod, said};

    fn asking(pod: &Arc<Workload>, dns_capture: Option<bool>) -> [Arc<Workload>; 1] {
        [Arc::new(Workload {
            dns_capture,
            ..Workload::clone(pod)
        })]
    }

    fn listeners(bench: &Bench) -> usize {
        let resolved = bench.host.resolved.lock().unwrap();
        resolved.len()
    }

    #[test]
    fn facts_win_over_the_setting_and_nothing_is_captured_unless_said() {
        for (setting, says, expected) in [
            (false, None, false),
            (true, None, true),
            (false, Some(true), true),
            (true, Some(false), false),
        ] {
            let mut bench = bench();
            bench.enrolment = bench.enrolment.capturing_dns(setting);
            bench
                .enrolment
                .reconcile(&asking(&pod("a", "/a", &["127.0.0.1"]), says));
            let netns = bench.host.netns("a");
            assert_eq!(
                bench.kernel.captures_dns(netns),
                Some(expected),
                "{setting} {says:?}"
            );
            assert_eq!(listeners(&bench), usize::from(expected), "{setting} {says:?}");
        }
    }

    #[test]
    fn capture_follows_the_facts_without_a_new_enrolment() {
        let mut bench = bench();
        let a = pod("a", "/a", &["127.0.0.1", "127.0.0.2"]);
        bench.enrolment.reconcile(&asking(&a, None));
        for (says, report) in [
            (Some(true), "test/a has its DNS captured"),
            (None, "test/a has its DNS left alone"),
        ] {
            assert_eq!(said(&bench.enrolment.reconcile(&asking(&a, says))), [report]);
            assert_eq!(said(&bench.enrolment.reconcile(&asking(&a, says))), [""; 0]);
            assert_eq!(listeners(&bench), usize::from(says.is_some()));
        }
    }

    #[test]
    fn each_address_has_a_listener_for_each_resolver() {
        let mut bench = bench();
        let a = pod("a", "/a", &["127.0.0.1", "127.0.0.2"]);
        bench.enrolment.reconcile(&asking(&a, Some(true)));
        let resolved = std::mem::take(&mut *bench.host.resolved.lock().unwrap());
        let sockets = resolved.into_values().flat_map(DnsListeners::into_sockets);
        assert_eq!(sockets.count(), usize::from(DNS_LISTENERS) * 2);
    }

    #[test]
    fn a_port_that_is_taken_leaves_dns_alone_until_it_is_free() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut bench = bench();
        bench.enrolment.ports = PodPorts {
            dns: taken.local_addr().unwrap().port(),
            ..PodPorts::ANY
        };
        let a = pod("a", "/a", &["127.0.0.1"]);
        let reports = said(&bench.enrolment.reconcile(&asking(&a, Some(true))));
        assert!(reports[1].contains("no captured DNS: "), "{reports:?}");
        assert_eq!(
            said(&bench.enrolment.reconcile(&asking(&a, Some(true)))),
            [""; 0],
            "once"
        );
        assert_eq!(bench.kernel.captures_dns(bench.host.netns("a")), Some(false));
        bench.enrolment.ports = PodPorts::ANY;
        let reports = said(&bench.enrolment.reconcile(&asking(&a, Some(true))));
        assert_eq!(reports, ["test/a has its DNS captured"]);
    }

    #[test]
    fn hooks_that_cannot_be_told_leave_nobody_listening() {
        let mut bench = bench();
        let a = pod("a", "/a", &["127.0.0.1"]);
        bench.enrolment.reconcile(&asking(&a, None));
        bench.kernel.refuse(Some("no room"));
        let reports = said(&bench.enrolment.reconcile(&asking(&a, Some(true))));
        assert_eq!(reports.len(), 1, "{reports:?}");
        assert_eq!(listeners(&bench), 0);
        bench.kernel.refuse(None);
        bench.enrolment.reconcile(&asking(&a, Some(true)));
        assert_eq!(listeners(&bench), 1);
    }
}
