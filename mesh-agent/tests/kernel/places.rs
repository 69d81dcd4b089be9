//! Where a pod may live, and what becomes of one whose place is gone.

use std::path::PathBuf;
use std::sync::Arc;

use mesh_agent::capture::listeners::PodPorts;
use mesh_agent::kernel::enrolment::Enrolment;
use mesh_agent::kernel::status::Change;
use mesh_agent::mesh::workload::Placement;

use crate::lab::{Lab, POD, Side};
use crate::{Bench, Held, in_lab, workload};

#[test]
fn a_pod_that_vanishes_is_unhooked_and_shown_as_absent() {
    in_lab(async || {
        let mut bench = Bench::enrolled("vanish")?;
        bench.lab.remove_netns(Side::Pod)?;
        let wanted = [Arc::clone(&bench.pod)];
        let reports = bench.enrolment.reconcile(&wanted);
        let changes: Vec<_> = reports.into_iter().map(|report| report.change).collect();
        // That it is not there, which is how every pod ends, is no news before it lasts.
        assert!(matches!(&changes[..], [Change::Left]), "{changes:?}");
        let status = bench.enrolment.status();
        let why = status.pods.iter().find_map(|pod| pod.why_not.as_deref());
        assert!(why.is_some_and(|why| why.contains("/run/netns/")), "{status:?}");
        Ok(())
    });
}

#[test]
fn a_place_that_is_not_a_pods_own_is_refused() {
    in_lab(async || {
        let lab = Lab::up("cgroup")?;
        let mut enrolment = Enrolment::new(
            Box::new(lab.kernel()?),
            Arc::new(Held::default()),
            PodPorts::default(),
        );
        let own_netns = Placement {
            netns: "/proc/self/ns/net".into(),
            cgroup: lab.cgroup(),
        };
        let root = lab.cgroup().ancestors().nth(2).ok_or("no root")?.to_owned();
        let in_cgroup = |cgroup: PathBuf| Placement {
            netns: lab.netns(Side::Pod),
            cgroup,
        };
        for (placement, expected) in [
            (in_cgroup(root), "own cgroup is inside"),
            (in_cgroup("/tmp".into()), "is no cgroup v2 directory"),
            (own_netns, "is the node's own network namespace"),
        ] {
            let mut pod = (*workload(&lab, &POD)).clone();
            pod.placement = Some(placement.into());
            let reports = enrolment.reconcile(&[Arc::new(pod)]);
            assert!(
                reports.iter().any(|report| report.to_string().contains(expected)),
                "{reports:?}"
            );
        }
        Ok(())
    });
}
