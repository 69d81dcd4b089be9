//! What outlives an agent, and what the next one makes of it.

use std::sync::Arc;

use mesh_agent::capture::listeners::PodPorts;
use mesh_agent::capture::{Direction, PodHost};
use mesh_agent::kernel::enrolment::Enrolment;
use mesh_agent::kernel::status::Change;
use mesh_agent::kernel::uninstall::uninstall;
use mesh_agent::kernel::{Hook, Kernel, Part};
use mesh_agent::mesh::workload::FailMode;

use crate::heart::Heart;
use crate::lab::{NODE, PEER, POD, Result, Side};
use crate::relay::Relay;
use crate::{Bench, in_lab};

impl Bench {
    /// Ends the agent as `kill -9` does to what it holds, and starts the next one, which is told of no pod yet.
    async fn restart(&mut self) -> Result<()> {
        self.relay.crash().await;
        self.enrolment.stop();
        self.heart.fail();
        self.relay = Relay::new();
        let host: Arc<dyn PodHost> = Arc::<Relay>::clone(&self.relay);
        let kernel = self.lab.kernel()?;
        self.heart = Heart::start(kernel.pulse());
        self.enrolment = Enrolment::new(Box::new(kernel), host, PodPorts::default());
        Ok(())
    }

    fn is_refused_both_ways(&self) -> Result<()> {
        for (from, to) in [(Side::Pod, PEER), (Side::Peer, POD)] {
            for (how, to) in ["v4", "v6"].into_iter().zip(to) {
                let (_, client) = self.dial(from, how, to)?;
                assert_eq!(client.errno.as_deref(), Some("ECONNREFUSED"), "{how} to {to}");
            }
        }
        Ok(())
    }

    fn is_served_both_ways(&self) -> Result<()> {
        for (from, to) in [(Side::Pod, PEER), (Side::Peer, POD)] {
            for (how, to) in ["v4", "v6"].into_iter().zip(to) {
                let (server, client) = self.dial(from, how, to)?;
                assert_eq!(client.reply.as_deref(), Some("hello"), "{how} {client:?}");
                let seen = server.seen.unwrap();
                assert_eq!(client.peer, Some(server.addr), "{how}");
                if from == Side::Peer {
                    assert_eq!(seen.accepted, client.own, "{how}");
                }
            }
        }
        let flows = self.relay.take();
        let outbound = flows.iter().filter(|flow| flow.0 == Direction::Outbound).count();
        assert_eq!((outbound, flows.len()), (2, 4), "{flows:?}");
        Ok(())
    }
}

#[test]
fn hooks_outlive_the_agent_and_refuse_until_the_next_one_adopts_them() {
    in_lab(async || {
        let mut bench = Bench::enrolled("outlive")?;
        bench.is_served_both_ways()?;
        let linked = bench.lab.link_ids()?;
        assert_eq!(linked.len(), Hook::ALL.len());
        bench.restart().await?;
        bench.is_refused_both_ways()?;
        let reports = bench.enrolment.reconcile(&[Arc::clone(&bench.pod)]);
        assert_eq!(
            reports.first().map(|report| &report.change),
            Some(&Change::Joined),
            "{reports:?}"
        );
        assert_eq!(bench.lab.link_ids()?, linked, "the very same links are in place");
        bench.is_served_both_ways()
    });
}

#[test]
fn links_are_kept_and_get_the_new_programs_when_the_maps_are_of_another_shape() {
    in_lab(async || {
        let mut bench = Bench::enrolled("layout")?;
        let linked = bench.lab.link_ids()?;
        bench.lab.replace_pinned_map("COUNTERS", "POD_ADDRS")?;
        bench.restart().await?;
        bench.is_refused_both_ways()?;
        bench.enrolment.reconcile(&[Arc::clone(&bench.pod)]);
        assert_eq!(bench.lab.link_ids()?, linked, "the very same links are in place");
        // By their old programs they would still look into the maps that are gone, and refuse.
        bench.is_served_both_ways()
    });
}

#[test]
fn links_that_somebody_detached_or_unpinned_are_mended() {
    in_lab(async || {
        let mut bench = Bench::enrolled("mend")?;
        let wanted = [Arc::clone(&bench.pod)];
        assert_eq!(bench.enrolment.reconcile(&wanted), []);
        bench.lab.detach(Hook::Connect4)?;
        bench.lab.detach(Hook::SkLookup)?;
        bench.lab.unpin(Hook::Connect6)?;
        let hooks = |bench: &Bench| bench.enrolment.status().pods.first().map(|pod| pod.hooks.clone());
        let left = hooks(&bench).ok_or("no pod")?;
        assert!(
            left.len() == Hook::ALL.len() - 2 && !left.contains(&Hook::Connect4),
            "status shows what the kernel has: {left:?}"
        );
        let reports = bench.enrolment.reconcile(&wanted);
        let mended = [Hook::SkLookup, Hook::Connect4, Hook::Connect6]
            .map(Part::Hook)
            .to_vec();
        assert_eq!(
            reports.first().map(|report| &report.change),
            Some(&Change::Repaired { parts: mended })
        );
        assert_eq!(hooks(&bench).ok_or("no pod")?.len(), Hook::ALL.len());
        assert_eq!(bench.lab.pinned_links()?.len(), Hook::ALL.len());
        assert_eq!(bench.enrolment.reconcile(&wanted), []);
        bench.is_served_both_ways()
    });
}

#[test]
fn a_pod_that_fails_open_goes_past_a_dead_agent_and_each_bypass_is_counted() {
    in_lab(async || {
        let mut bench = Bench::enrolled_with("open", &POD, FailMode::Open)?;
        bench.is_served_both_ways()?;
        bench.heart.fail();
        for (from, to) in [(Side::Pod, PEER), (Side::Peer, POD)] {
            for (how, to) in ["v4", "v6"].into_iter().zip(to) {
                let (server, client) = bench.dial(from, how, to)?;
                assert_eq!(
                    server.seen.unwrap().accepted,
                    client.own,
                    "{how}: nobody in between"
                );
            }
        }
        assert_eq!(bench.relay.take(), []);
        bench.restart().await?;
        bench.enrolment.reconcile(&[Arc::clone(&bench.pod)]);
        let status = bench.enrolment.status();
        assert_eq!(status.pods.first().map(|pod| pod.bypassed), Some(4));
        assert!(status.counters.contains(&("bypassed", 4)), "{status:?}");
        bench.is_served_both_ways()
    });
}

#[test]
fn an_agent_that_is_alive_and_does_not_beat_is_refused_at_once() {
    in_lab(async || {
        let bench = Bench::enrolled("stuck")?;
        bench.heart.fail();
        bench.is_refused_both_ways()?;
        assert_eq!(bench.relay.take(), []);
        Ok(())
    });
}

#[test]
fn what_is_left_of_a_pod_that_is_gone_is_removed() {
    in_lab(async || {
        let mut bench = Bench::enrolled("gone")?;
        bench.restart().await?;
        assert_eq!(bench.lab.pinned_links()?.len(), Hook::ALL.len());
        bench.enrolment.reconcile(&[]);
        assert_eq!(bench.lab.pinned_links()?, [""; 0].map(std::path::PathBuf::from));
        let (server, client) = bench.dial(Side::Pod, "v4", PEER[0])?;
        assert_eq!(server.seen.unwrap().accepted, client.own, "nobody in between");
        Ok(())
    });
}

#[test]
fn uninstall_leaves_nothing_and_says_what_it_removed() {
    in_lab(async || {
        let bench = Bench::enrolled("uninstall")?;
        let Bench {
            enrolment,
            relay,
            heart,
            lab,
            ..
        } = bench;
        relay.crash().await;
        drop(enrolment);
        heart.fail();
        drop(heart);
        let removed = uninstall(lab.bpf(), NODE)?;
        assert_eq!(
            (removed.pods, removed.links, removed.programs),
            (1, Hook::ALL.len(), Hook::ALL.len()),
            "{removed}"
        );
        assert!(removed.maps >= 8, "{removed}");
        assert_eq!(removed.left, [""; 0]);
        assert!(!lab.bpf().join("mesh").exists());
        let again = uninstall(lab.bpf(), NODE)?;
        assert_eq!((again.links, again.maps), (0, 0));
        Ok(())
    });
}

#[test]
fn uninstall_names_what_a_running_agent_still_holds() {
    in_lab(async || {
        let bench = Bench::enrolled("holds")?;
        let removed = uninstall(bench.lab.bpf(), NODE)?;
        assert!(
            removed.left.iter().any(|left| left.ends_with("mesh_connect4")),
            "{removed}"
        );
        Ok(())
    });
}
