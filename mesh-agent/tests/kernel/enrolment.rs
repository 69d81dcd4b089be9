//! Who may be hooked, what the audit puts back, and who goes past the agent: over the real kernel.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_agent::kernel::Hook;
use mesh_agent::kernel::status::Change;
use mesh_agent::mesh::exclusions::Exclusions;
use mesh_agent::mesh::workload::{FailMode, Placement, Workload, WorkloadUid};
use mesh_common::exclusion::OutboundPort;
use mesh_common::layout::{Addr, Endpoint, Pod, PodAddr};

use crate::lab::{PEER, POD, Result, Seen, Side, ips};
use crate::{Bench, in_lab};

impl Bench {
    /// A pod that joins after the first, at another place.
    fn second(&self, place: impl FnOnce(&mut Placement), addrs: &[&str]) -> Result<Arc<Workload>> {
        let mut pod = Workload::clone(&self.pod);
        pod.uid = WorkloadUid::new("0002");
        pod.pod_name = "second".into();
        pod.addrs = ips(addrs);
        place(pod.placement.as_mut().ok_or("no placement")?);
        Ok(Arc::new(pod))
    }

    fn changes(&mut self, wanted: &[Arc<Workload>]) -> Vec<Change> {
        let reports = self.enrolment.reconcile(wanted);
        reports.into_iter().map(|report| report.change).collect()
    }

    /// The errno of a connection that must not come about, and that no agent may see.
    fn is_refused(&self, from: Side, to: &str) -> Result<Option<String>> {
        let (_, client) = self.dial(from, if to.contains(':') { "v6" } else { "v4" }, to)?;
        assert_eq!(self.relay.take(), []);
        Ok(client.errno)
    }

    fn is_served(&self) -> Result<()> {
        for (from, to) in [(Side::Pod, PEER[0]), (Side::Peer, POD[0])] {
            let (_, client) = self.dial(from, "v4", to)?;
            assert_eq!(client.reply.as_deref(), Some("hello"), "{client:?}");
        }
        assert_eq!(self.relay.take().len(), 2);
        Ok(())
    }

    fn with_probes(&self, ports: &[u16]) -> Arc<Workload> {
        Arc::new(Workload {
            probe_ports: ports.iter().copied().collect::<BTreeSet<_>>().into(),
            ..Workload::clone(&self.pod)
        })
    }
}

#[test]
fn a_container_in_a_cgroup_below_the_pods_is_captured() {
    in_lab(async || {
        let bench = Bench::enrolled("child")?;
        for (how, to) in ["v4", "v6"].into_iter().zip(PEER) {
            let (_, client) = bench.dial(Side::Container, how, to)?;
            assert_eq!(client.reply.as_deref(), Some("hello"), "{client:?}");
            assert_eq!(bench.relay.take().len(), 1, "{how}");
        }
        Ok(())
    });
}

#[test]
fn a_process_of_the_pod_in_another_namespace_gains_no_way_out() {
    in_lab(async || {
        let bench = Bench::enrolled("stray")?;
        for to in POD {
            let errno = bench.is_refused(Side::Stray, to)?;
            assert_eq!(errno.as_deref(), Some("ENETUNREACH"), "{to}");
        }
        // Within it, it may do as it likes.
        let to: SocketAddr = "127.0.0.1:1".parse()?;
        let client = tokio::task::block_in_place(|| bench.lab.client(Side::Stray, "v4", to))?;
        assert_eq!(client.errno.as_deref(), Some("ECONNREFUSED"));
        Ok(())
    });
}

#[test]
fn a_pod_whose_address_another_took_over_is_refused_both_ways_until_it_has_it_again() {
    in_lab(async || {
        let mut bench = Bench::enrolled("contest")?;
        bench.lab.add_twin()?;
        let (netns, cgroup) = (bench.lab.netns(Side::Twin), bench.lab.twin_cgroup());
        let younger = bench.second(|place| *place = Placement { netns, cgroup }, &POD)?;
        let (elder, both) = (
            [Arc::clone(&bench.pod)],
            [Arc::clone(&bench.pod), Arc::clone(&younger)],
        );
        let changes = bench.changes(&both);
        assert!(
            matches!(&changes[..], [Change::Joined, Change::Superseded { why }] if why.contains("test/second")),
            "{changes:?}"
        );
        assert_eq!(bench.changes(&both), []);
        // The elder's links are all there, and nothing of it is steered to the younger.
        assert_eq!(bench.lab.pinned_links()?.len(), 2 * Hook::ALL.len());
        for (from, to) in [(Side::Pod, PEER), (Side::Peer, POD)] {
            for to in to {
                let errno = bench.is_refused(from, to)?;
                assert_eq!(errno.as_deref(), Some("ECONNREFUSED"), "{to}");
            }
        }
        assert_eq!(bench.changes(&elder), [Change::Left, Change::Joined]);
        bench.is_served()
    });
}

#[test]
fn a_pod_in_another_pods_namespace_or_cgroup_is_refused_and_leaves_nothing() {
    in_lab(async || {
        let mut bench = Bench::enrolled("shared")?;
        bench.lab.add_twin()?;
        let (twin, container) = (bench.lab.netns(Side::Twin), bench.lab.container());
        let around = bench.lab.cgroup().parent().ok_or("no parent")?.to_owned();
        let cgroup = bench.lab.twin_cgroup();
        for (place, says) in [
            (
                Placement {
                    netns: bench.lab.netns(Side::Pod),
                    cgroup,
                },
                "shares its network namespace with pod test/pod",
            ),
            (
                Placement {
                    netns: twin.clone(),
                    cgroup: container,
                },
                "its cgroup is that of pod test/pod or lies in it or around it",
            ),
            (
                Placement {
                    netns: twin,
                    cgroup: around,
                },
                "its cgroup is that of pod test/pod or lies in it or around it",
            ),
        ] {
            let second = bench.second(|own| *own = place, &PEER)?;
            let changes = bench.changes(&[Arc::clone(&bench.pod), second]);
            assert!(
                matches!(&changes[..], [Change::Failed { why }] if why.contains(says)),
                "{changes:?}"
            );
            assert_eq!(bench.lab.pinned_links()?.len(), Hook::ALL.len());
            let first = [Arc::clone(&bench.pod)];
            assert_eq!(bench.changes(&first), []);
        }
        bench.is_served()
    });
}

#[test]
fn entries_that_somebody_takes_away_are_put_back_and_named_and_nothing_leaks_meanwhile() {
    in_lab(async || {
        let mut bench = Bench::enrolled("entries")?;
        let mut pod = Workload::clone(&bench.pod);
        pod.exclusions.outbound_ports = BTreeSet::from([25]);
        pod.exclusions.inbound_ports = BTreeSet::from([26]);
        pod.exclusions.outbound_cidrs = BTreeSet::from(["203.0.113.0/24".parse()?]);
        pod.probe_ports = BTreeSet::from([27]).into();
        let wanted = [Arc::new(pod)];
        assert_eq!(bench.changes(&wanted), [Change::ExceptionsChanged]);
        assert_eq!(bench.changes(&wanted), []);

        let mut pods = bench.lab.map::<u64, Pod>("PODS")?;
        let netns = pods.keys().next().ok_or("no pod")??;
        pods.remove(&netns)?;
        let errno = bench.is_refused(Side::Pod, PEER[0])?;
        assert_eq!(errno.as_deref(), Some("ENETUNREACH"), "it must not go direct");
        assert_eq!(repaired(&bench.changes(&wanted))?, ["PODS"]);
        bench.is_served()?;

        let v4 = Addr::from(ips(&POD)[0]);
        bench.lab.listeners()?.remove(&v4)?;
        assert_eq!(
            bench.is_refused(Side::Peer, POD[0])?.as_deref(),
            Some("ECONNREFUSED")
        );
        assert_eq!(repaired(&bench.changes(&wanted))?, ["INBOUND"]);
        bench.is_served()?;

        bench.lab.map::<Addr, PodAddr>("POD_ADDRS")?.remove(&v4)?;
        bench
            .lab
            .map::<OutboundPort, u32>("EXCLUDED_PORTS")?
            .remove(&OutboundPort::new(netns, 25))?;
        let end = |port| Endpoint { addr: v4, port };
        bench
            .lab
            .map::<Endpoint, u32>("EXCLUDED_INBOUND")?
            .remove(&end(26))?;
        bench.lab.map::<Endpoint, u32>("PROBE_PORTS")?.remove(&end(27))?;
        let parts = repaired(&bench.changes(&wanted))?;
        assert_eq!(
            parts,
            ["EXCLUDED_PORTS", "EXCLUDED_INBOUND", "PROBE_PORTS", "POD_ADDRS"]
        );
        assert_eq!(bench.changes(&wanted), []);
        bench.is_served()
    });
}

#[test]
fn an_exclusion_that_somebody_adds_is_taken_away_again() {
    in_lab(async || {
        let mut bench = Bench::enrolled("strays")?;
        let wanted = [Arc::clone(&bench.pod)];
        assert_eq!(bench.changes(&wanted), []);
        let pods = bench.lab.map::<u64, Pod>("PODS")?;
        let netns = pods.keys().next().ok_or("no pod")??;
        let mut ports = bench.lab.map::<OutboundPort, u32>("EXCLUDED_PORTS")?;
        ports.insert(OutboundPort::new(netns, 80), 0, 0)?;
        let mut inbound = bench.lab.map::<Endpoint, u32>("EXCLUDED_INBOUND")?;
        let addr = Addr::from(ips(&POD)[0]);
        inbound.insert(Endpoint { addr, port: 80 }, 0, 0)?;
        assert_eq!(
            repaired(&bench.changes(&wanted))?,
            ["EXCLUDED_PORTS", "EXCLUDED_INBOUND"]
        );
        assert_eq!((ports.keys().count(), inbound.keys().count()), (0, 0));
        Ok(())
    });
}

fn repaired(changes: &[Change]) -> Result<Vec<&'static str>> {
    match changes {
        [Change::Repaired { parts }] => Ok(parts.iter().map(|part| part.name()).collect()),
        _ => Err(format!("{changes:?}").into()),
    }
}

#[test]
fn the_node_reaches_the_application_itself_at_the_ports_of_probes_and_nobody_else_does() {
    in_lab(async || {
        let mut bench = Bench::enrolled("probe")?;
        for (how, to) in ["v4", "v6"].into_iter().zip(POD) {
            let (probed, other) = tokio::task::block_in_place(|| {
                Result::Ok((bench.lab.server(Side::Pod, to)?, bench.lab.server(Side::Pod, to)?))
            })?;
            let wanted = [bench.with_probes(&[probed.addr.port()])];
            bench.enrolment.know_node(&BTreeSet::new())?;
            bench.changes(&wanted);
            let (stranger, again) = tokio::task::block_in_place(|| {
                let client = bench.lab.client(Side::Peer, how, probed.addr)?;
                probed.seen()?;
                Result::Ok((client, bench.lab.server(Side::Pod, to)?))
            })?;
            assert_eq!(stranger.reply.as_deref(), Some("hello"));
            assert_eq!(bench.relay.take().len(), 1, "{how}: a neighbour is steered");

            let wanted = [bench.with_probes(&[again.addr.port()])];
            bench.enrolment.know_node(&ips(&PEER).into_iter().collect())?;
            bench.changes(&wanted);
            let (probe, seen, elsewhere) = tokio::task::block_in_place(|| {
                let probe = bench.lab.client(Side::Peer, how, again.addr)?;
                let seen = again.seen()?;
                let elsewhere = bench.lab.client(Side::Peer, how, other.addr)?;
                other.seen()?;
                Result::Ok((probe, seen, elsewhere))
            })?;
            assert_eq!(seen.accepted, probe.own, "{how}: nobody in between");
            assert_eq!(elsewhere.reply.as_deref(), Some("hello"));
            assert_eq!(
                bench.relay.take().len(),
                1,
                "{how}: only the other port is steered"
            );
        }
        Ok(())
    });
}

#[test]
fn a_probe_of_a_port_that_nobody_listens_on_fails_as_without_a_mesh_and_with_a_dead_agent() {
    in_lab(async || {
        let mut bench = Bench::enrolled_with("red", &POD, FailMode::Closed)?;
        let closed = SocketAddr::new(ips(&POD)[0], 9);
        let dial = |bench: &Bench, to| -> Result<Seen> {
            tokio::task::block_in_place(|| bench.lab.client(Side::Peer, "v4", to))
        };
        bench.enrolment.know_node(&ips(&PEER).into_iter().collect())?;
        bench.changes(&[bench.with_probes(&[9])]);
        assert_eq!(dial(&bench, closed)?.errno.as_deref(), Some("ECONNREFUSED"));
        assert_eq!(bench.relay.take(), []);

        let server = tokio::task::block_in_place(|| bench.lab.server(Side::Pod, POD[0]))?;
        bench.changes(&[bench.with_probes(&[server.addr.port()])]);
        bench.heart.fail();
        let probe = dial(&bench, server.addr)?;
        let seen = tokio::task::block_in_place(|| server.seen())?;
        assert_eq!(seen.accepted, probe.own);
        Ok(())
    });
}

#[test]
fn what_was_let_past_for_a_pod_goes_with_it() {
    in_lab(async || {
        let mut bench = Bench::enrolled("forget")?;
        let mut pod = Workload::clone(&bench.with_probes(&[27]));
        pod.exclusions = Exclusions {
            outbound_ports: BTreeSet::from([25]),
            inbound_ports: BTreeSet::from([26]),
            ..Exclusions::default()
        }
        .into();
        bench.changes(&[Arc::new(pod)]);
        bench.changes(&[]);
        let left = [
            bench.lab.map::<u64, Pod>("PODS")?.keys().count(),
            bench.lab.map::<Addr, PodAddr>("POD_ADDRS")?.keys().count(),
            bench.lab.listeners()?.keys().count(),
            bench
                .lab
                .map::<OutboundPort, u32>("EXCLUDED_PORTS")?
                .keys()
                .count(),
            bench.lab.map::<Endpoint, u32>("EXCLUDED_INBOUND")?.keys().count(),
            bench.lab.map::<Endpoint, u32>("PROBE_PORTS")?.keys().count(),
        ];
        assert_eq!(left, [0; 6]);
        Ok(())
    });
}
