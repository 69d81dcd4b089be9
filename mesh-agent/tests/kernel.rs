//! The real kernel programs between two network namespaces, one of them an enrolled pod.
//!
//! Needs root and a kernel that runs eBPF: `cargo xtask test` sets `MESH_LAB=1`; without it nothing is tested here.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests, outside the test functions"
)]

#[path = "kernel/capacity.rs"]
mod capacity;
#[path = "kernel/direct.rs"]
mod direct;
#[path = "kernel/dns.rs"]
mod dns;
#[path = "kernel/enrolment.rs"]
mod enrolment;
#[path = "kernel/exclusions.rs"]
mod exclusions;
#[path = "kernel/heart.rs"]
mod heart;
#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/places.rs"]
mod places;
#[path = "kernel/programs.rs"]
mod programs;
#[path = "kernel/relay.rs"]
mod relay;
#[path = "kernel/restart.rs"]
mod restart;
#[path = "kernel/splice.rs"]
mod splice;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_agent::capture::Direction;
use mesh_agent::capture::door::Accepted;
use mesh_agent::capture::listeners::PodPorts;
use mesh_agent::kernel::capacity::Capacity;
use mesh_agent::kernel::ebpf::EbpfKernel;
use mesh_agent::kernel::enrolment::Enrolment;
use mesh_agent::kernel::status::Change;
use mesh_agent::kernel::{Hook, Kernel};
use mesh_agent::mesh::facts::ObjectMeta;
use mesh_agent::mesh::identity::SpiffeId;
use mesh_agent::mesh::workload::{FailMode, Membership, Placement, Workload, WorkloadNaming, WorkloadUid};
use tokio::io::AsyncReadExt;

use crate::heart::Heart;
use crate::lab::{Lab, PEER, POD, Result, Seen, Server, Side, ips};
use crate::relay::{Held, Relay};

/// A pod, enrolled or about to be.
struct Bench {
    enrolment: Enrolment,
    heart: Heart,
    relay: Arc<Relay>,
    pod: Arc<Workload>,
    // Last: enrolment goes before the namespaces.
    lab: Lab,
}

impl Bench {
    fn enrolled(test: &str) -> Result<Self> {
        Self::enrolled_with(test, &POD, FailMode::Closed)
    }

    fn enrolled_with(test: &str, addrs: &[&str], fail_mode: FailMode) -> Result<Self> {
        let lab = Lab::up(test)?;
        let kernel = lab.kernel()?;
        Ok(Self::enrolled_by(kernel, lab, addrs, fail_mode))
    }

    fn enrolled_in(test: &str, capacity: Capacity) -> Result<Self> {
        let lab = Lab::up(test)?;
        let kernel = lab.kernel_of(capacity)?;
        Ok(Self::enrolled_by(kernel, lab, &POD, FailMode::Closed))
    }

    fn enrolled_by(kernel: EbpfKernel, lab: Lab, addrs: &[&str], fail_mode: FailMode) -> Self {
        let relay = Relay::new();
        let heart = Heart::start(kernel.pulse());
        let mut enrolment =
            Enrolment::new(Box::new(kernel), Arc::<Relay>::clone(&relay), PodPorts::default());
        let mut pod = workload(&lab, addrs);
        Arc::make_mut(&mut pod).fail_mode = fail_mode;
        let reports = enrolment.reconcile(&[Arc::clone(&pod)]);
        assert_eq!(
            reports.first().map(|report| &report.change),
            Some(&Change::Joined),
            "{reports:?}"
        );
        Self {
            enrolment,
            heart,
            relay,
            pod,
            lab,
        }
    }

    /// One connection to a fresh server, seen from both ends.
    fn dial(&self, from: Side, how: &str, to: &str) -> Result<(Served, Seen)> {
        let server_side = if POD.contains(&to) { Side::Pod } else { Side::Peer };
        tokio::task::block_in_place(|| {
            let server: Server = self.lab.server(server_side, to)?;
            let addr = server.addr;
            let client = self.lab.client(from, how, addr)?;
            if client.reply.is_none() {
                server.stop()?;
                return Ok((Served { addr, seen: None }, client));
            }
            Ok((
                Served {
                    addr,
                    seen: Some(server.seen()?),
                },
                client,
            ))
        })
    }
}

/// The server's end.
struct Served {
    addr: SocketAddr,
    seen: Option<Seen>,
}

fn workload(lab: &Lab, addrs: &[&str]) -> Arc<Workload> {
    Arc::new(Workload {
        uid: WorkloadUid::new("0001"),
        namespace: "test".into(),
        pod_name: "pod".into(),
        meta: Arc::new(ObjectMeta {
            origin: "test".into(),
            object: "Pod test/pod".into(),
            created: None,
        }),
        node: "node".into(),
        host_network: false,
        identity: SpiffeId::new("cluster.local", "test", "pod").unwrap(),
        addrs: ips(addrs),
        labels: std::collections::BTreeMap::new().into(),
        naming: WorkloadNaming::default().into(),
        ports: Vec::new().into(),
        exclusions: mesh_agent::mesh::exclusions::Exclusions::default().into(),
        probe_ports: std::collections::BTreeSet::new().into(),
        membership: Membership::Enrolled,
        fail_mode: FailMode::Closed,
        dns_capture: None,
        is_ready: true,
        is_terminating: false,
        static_hash: None,
        placement: Some(
            Placement {
                netns: lab.netns(Side::Pod),
                cgroup: lab.cgroup(),
            }
            .into(),
        ),
    })
}

/// Runs one test with a lab, or says that there is none.
fn in_lab(test: impl AsyncFnOnce() -> Result<()>) {
    if std::env::var_os("MESH_LAB").is_none() {
        eprintln!("needs MESH_LAB=1 and root: nothing was tested");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { test().await.unwrap() });
}

#[test]
fn outbound_is_captured_and_both_ends_see_true_addresses() {
    in_lab(async || {
        let bench = Bench::enrolled("out")?;
        for (how, to, pod_ip) in [
            ("v4", PEER[0], POD[0]),
            ("v6", PEER[1], POD[1]),
            ("mapped", PEER[0], POD[0]),
            ("mptcp", PEER[0], POD[0]),
            ("mptcp", PEER[1], POD[1]),
        ] {
            let (server, client) = bench.dial(Side::Pod, how, to)?;
            assert_eq!(client.reply.as_deref(), Some("hello"), "{how} {client:?}");
            let flows = bench.relay.take();
            // One flow: the relay's own connect, from the same namespace, was not captured again.
            let own = canonical(client.own.unwrap());
            assert_eq!(flows, [(Direction::Outbound, own, server.addr)], "{how}");
            assert_eq!(
                canonical(client.peer.unwrap()),
                server.addr,
                "{how}: getpeername shows what was dialled"
            );
            assert_eq!(
                own.ip(),
                pod_ip.parse::<IpAddr>()?,
                "{how}: getsockname stays natural"
            );
            assert_eq!(
                server.seen.unwrap().peer.unwrap().ip(),
                pod_ip.parse::<IpAddr>()?,
                "{how}"
            );
        }
        Ok(())
    });
}

#[test]
fn inbound_is_steered_and_the_application_sees_the_real_client() {
    in_lab(async || {
        let bench = Bench::enrolled("in")?;
        for (how, to) in [("v4", POD[0]), ("v6", POD[1]), ("mptcp", POD[0])] {
            let (server, client) = bench.dial(Side::Peer, how, to)?;
            assert_eq!(client.reply.as_deref(), Some("hello"), "{how} {client:?}");
            let own = client.own.unwrap();
            assert_eq!(
                bench.relay.take(),
                [(Direction::Inbound, own, server.addr)],
                "{how}"
            );
            let seen = server.seen.unwrap();
            assert_eq!(
                (seen.accepted, seen.peer, seen.own),
                (Some(own), Some(own), Some(server.addr)),
                "{how}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_pod_that_dials_itself_is_left_alone() {
    in_lab(async || {
        let bench = Bench::enrolled("self")?;
        for (how, to) in [("v4", POD[0]), ("v6", POD[1])] {
            let (server, client) = bench.dial(Side::Pod, how, to)?;
            assert_eq!(client.peer, Some(server.addr));
            assert_eq!(server.seen.unwrap().accepted, client.own);
        }
        assert_eq!(bench.relay.take(), []);
        let agent = SocketAddr::new(POD[0].parse()?, mesh_common::layout::OUTBOUND_PORT);
        let refused = tokio::task::block_in_place(|| bench.lab.client(Side::Pod, "v4", agent))?;
        assert_eq!(refused.errno.as_deref(), Some("ECONNREFUSED"));
        Ok(())
    });
}

#[test]
fn a_family_that_the_pod_does_not_have_is_refused() {
    in_lab(async || {
        let bench = Bench::enrolled_with("family", &POD[..1], FailMode::Closed)?;
        let (_, client) = bench.dial(Side::Pod, "v6", PEER[1])?;
        assert_eq!(client.errno.as_deref(), Some("ENETUNREACH"));
        Ok(())
    });
}

#[test]
fn a_dead_agent_refuses_and_never_leaks() {
    in_lab(async || {
        let mut bench = Bench::enrolled("dead")?;
        bench.relay.crash().await;
        bench.enrolment.stop();
        for (from, to) in [(Side::Pod, PEER), (Side::Peer, POD)] {
            for (how, to) in ["v4", "v6"].into_iter().zip(to) {
                let (_, client) = bench.dial(from, how, to)?;
                assert_eq!(client.errno.as_deref(), Some("ECONNREFUSED"), "{how} to {to}");
            }
        }
        Ok(())
    });
}

#[test]
fn un_enrolling_restores_the_plain_network() {
    in_lab(async || {
        let mut bench = Bench::enrolled("leave")?;
        assert_eq!(bench.lab.links()?, Hook::ALL.len());
        let reports = bench.enrolment.reconcile(&[]);
        assert_eq!(
            reports.first().map(|report| &report.change),
            Some(&Change::Left),
            "{reports:?}"
        );
        assert_eq!(bench.lab.links()?, 0);
        for (from, to) in [(Side::Pod, PEER), (Side::Peer, POD)] {
            for (how, to) in ["v4", "v6"].into_iter().zip(to) {
                let (server, client) = bench.dial(from, how, to)?;
                assert_eq!(client.peer, Some(server.addr));
                assert_eq!(
                    server.seen.unwrap().accepted,
                    client.own,
                    "{how} to {to}: nobody in between"
                );
            }
        }
        assert_eq!(bench.relay.take(), []);
        Ok(())
    });
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[test]
fn every_way_to_connect_is_captured() {
    in_lab(async || {
        let bench = Bench::enrolled("ways")?;
        for how in ["nonblocking", "bound", "fastopen"] {
            for (to, pod_ip) in PEER.into_iter().zip(POD) {
                let (server, client) = bench.dial(Side::Pod, how, to)?;
                assert_eq!(client.reply.as_deref(), Some("hello"), "{how} {client:?}");
                let own = client.own.unwrap();
                assert_eq!(own.ip(), pod_ip.parse::<IpAddr>()?, "{how}");
                assert_eq!(
                    bench.relay.take(),
                    [(Direction::Outbound, own, server.addr)],
                    "{how}"
                );
                assert_eq!(client.peer, Some(server.addr), "{how}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_client_that_closes_before_the_agent_accepts_keeps_its_destination() {
    in_lab(async || {
        let held = Arc::new(Held::default());
        let lab = Lab::up("hasty")?;
        let kernel = lab.kernel()?;
        let _heart = Heart::start(kernel.pulse());
        let mut enrolment = Enrolment::new(Box::new(kernel), Arc::<Held>::clone(&held), PodPorts::default());
        enrolment.reconcile(&[workload(&lab, &POD)]);
        let to: SocketAddr = format!("{}:7777", PEER[0]).parse()?;
        // The client has sent, closed and exited before anybody accepts.
        let client = tokio::task::block_in_place(|| lab.client(Side::Pod, "hasty", to))?;
        let (pod, listeners) = held.0.lock().unwrap().take().ok_or("nothing joined")?;
        let doors = listeners.into_doors(&pod)?;
        let door = doors
            .iter()
            .find(|door| door.direction() == Direction::Outbound)
            .ok_or("no door")?;
        let accepted = door.accept().await;
        let Accepted::Captured(mut captured) = accepted else {
            return Err(format!("{accepted:?}").into());
        };
        assert_eq!((captured.original, Some(captured.peer)), (to, client.own));
        let mut sent = String::new();
        captured.stream.read_to_string(&mut sent).await?;
        assert_eq!(sent, "ahoy!");
        drop(enrolment);
        Ok(())
    });
}
