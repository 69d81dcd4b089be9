//! What may go past the agent, what does, and what is counted of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_common::direct::{EndStats, Ends, Flow};
use mesh_common::layout::Endpoint;
use parking_lot::Mutex;

use super::*;
use crate::kernel::direct::fake::FakeDirect;
use crate::kernel::fake::FakeFlows;
use crate::mesh::facts::{Facts, ObjectMeta};
use crate::mesh::service::{AppProtocol, BalancerKind, EndpointCondition, Service, ServiceName, ServicePort};
use crate::mesh::workload::Placement;
use crate::mesh::workload::fixture::pod;
use crate::pod::netns::NetnsCookie;
use crate::snapshot::SnapshotSettings;

const CLIENT: u64 = 1;
const STORE: u64 = 2;
const SECOND: u64 = 1_000_000_000;

/// A client and a store of this node, the store behind a Service.
struct Bench {
    table: Arc<FakeDirect>,
    telemetry: Telemetry,
    destroyed: Arc<Mutex<Vec<(u64, Victim)>>>,
    direct: DirectFlows,
    facts: Facts,
    snapshot: Snapshot,
}

impl Bench {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(off: Option<&str>) -> Self {
        let facts = facts(AppProtocol::Tcp);
        let (table, telemetry) = (Arc::<FakeDirect>::default(), Telemetry::new());
        let destroyed = Arc::<Mutex<Vec<_>>>::default();
        let mut bench = Self {
            direct: flows(&table, &telemetry, &destroyed, off),
            snapshot: snapshot(&facts, None),
            table,
            telemetry,
            destroyed,
            facts,
        };
        bench.apply(&[CLIENT, STORE]);
        bench
    }

    fn apply(&mut self, present: &[u64]) {
        let present = present.iter().map(|cookie| local(&self.facts, *cookie));
        self.direct.apply(&self.snapshot, present.collect());
    }

    fn change(&mut self, facts: Facts) {
        self.snapshot = snapshot(&facts, Some(&self.snapshot));
        self.facts = facts;
        self.apply(&[CLIENT, STORE]);
    }

    fn look_at(&mut self, now_s: u64) {
        self.direct.look_at(&self.snapshot, now_s * SECOND).unwrap();
    }

    /// As when the agent is killed and another one starts: its metrics begin at zero.
    fn restart(&mut self) {
        self.telemetry = Telemetry::new();
        self.direct = flows(&self.table, &self.telemetry, &self.destroyed, None);
        self.apply(&[CLIENT, STORE]);
    }

    /// The value of an `istio_tcp_` family as one reporter has it, over all flags.
    fn tcp(&self, family: &str, reporter: &str) -> u64 {
        let text = self.telemetry.encode();
        let lines = text
            .lines()
            .filter(|line| line.starts_with(&format!("istio_tcp_{family}_total{{")));
        let of_reporter = lines.filter(|line| line.contains(&format!("reporter=\"{reporter}\"")));
        of_reporter
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .map(|value| format!("{value}").parse::<u64>().unwrap())
            .sum()
    }

    /// Opened, closed, sent and received; the same to both reporters.
    fn counted(&self) -> [u64; 4] {
        let of = |reporter: &str| {
            [
                "connections_opened",
                "connections_closed",
                "sent_bytes",
                "received_bytes",
            ]
            .map(|family| self.tcp(family, reporter))
        };
        assert_eq!(of("source"), of("destination"));
        of("source")
    }
}

fn flows(
    table: &Arc<FakeDirect>,
    telemetry: &Telemetry,
    destroyed: &Arc<Mutex<Vec<(u64, Victim)>>>,
    off: Option<&str>,
) -> DirectFlows {
    let (table, destroyed) = (Arc::clone(table), Arc::clone(destroyed));
    DirectFlows::new(
        table,
        telemetry.clone(),
        Box::new(move |netns, victim| {
            destroyed.lock().push((netns.cookie().0, victim));
            Ok(true)
        }),
        off.map(str::to_owned),
    )
}

fn facts(protocol: AppProtocol) -> Facts {
    let placed = |name: &str, addr: &str| Workload {
        addrs: vec![addr.parse().unwrap()],
        placement: Some(Placement {
            netns: format!("/run/netns/{name}").into(),
            cgroup: format!("/cg/{name}").into(),
        }),
        ..pod("shop", name)
    };
    let meta = Arc::new(ObjectMeta {
        origin: "test".into(),
        object: "Service shop/store".into(),
        created: None,
    });
    Facts {
        workloads: vec![placed("client", "10.0.0.1"), placed("store", "10.0.0.2")],
        services: vec![Service {
            name: ServiceName::new("shop", "store"),
            meta: Arc::clone(&meta),
            vips: vec!["10.96.0.1".parse().unwrap()],
            is_headless: false,
            ports: vec![ServicePort {
                name: "main".into(),
                port: 80,
                protocol,
            }],
            balancer: BalancerKind::LeastRequest,
        }],
        endpoints: vec![crate::mesh::service::Endpoint {
            service: ServiceName::new("shop", "store"),
            meta,
            port_name: "main".into(),
            addr: "10.0.0.2:7000".parse().unwrap(),
            condition: EndpointCondition::Ready,
            workload: None,
        }],
        ..Facts::default()
    }
}

fn snapshot(facts: &Facts, previous: Option<&Snapshot>) -> Snapshot {
    let settings = SnapshotSettings {
        node: "node-a".into(),
        root_namespace: "mesh-system".into(),
    };
    Snapshot::build(facts, &settings, previous).0
}

fn local(facts: &Facts, cookie: u64) -> LocalPod {
    let index = if cookie == CLIENT { 0 } else { 1 };
    LocalPod {
        workload: Arc::new(facts.workloads[index].clone()),
        netns: Arc::new(Netns::stand_in(NetnsCookie(cookie))),
        flows: Arc::new(FakeFlows::default()),
    }
}

fn end(addr: &str) -> Endpoint {
    Endpoint::from(addr.parse::<SocketAddr>().unwrap())
}

fn ends() -> Ends {
    Ends {
        client: end("10.0.0.1:40000"),
        server: end("10.0.0.2:7000"),
    }
}

/// A flow to the Service that began in second 1 and moved so many bytes.
fn flow(to_server: u64, to_client: u64) -> Flow {
    let stats = |cookie, sent| EndStats {
        cookie,
        sent,
        spliced: 0,
        srtt_us: 20,
        retransmits: 1,
        closed: 0,
        reserved: 0,
    };
    Flow {
        client_netns: CLIENT,
        server_netns: STORE,
        started_ns: SECOND,
        ended_ns: 0,
        client: stats(101, to_server),
        server: stats(102, to_client),
        dialled: end("10.96.0.1:80"),
        established: 1,
    }
}

fn closed(mut flow: Flow, end_s: u64) -> Flow {
    flow.ended_ns = end_s * SECOND;
    flow.client.closed = 1;
    flow.server.closed = 1;
    flow
}

#[test]
fn verdicts_follow_the_snapshot_and_the_pods_that_are_present() {
    let mut bench = Bench::new();
    let dialled = |bench: &Bench| -> BTreeSet<(u64, String)> {
        let allowed = bench.table.allowed();
        let keys = allowed
            .keys()
            .map(|key| (key.netns, SocketAddr::try_from(key.dialled).unwrap()));
        keys.filter(|(_, addr)| [80, 7000].contains(&addr.port()))
            .map(|(netns, addr)| (netns, addr.to_string()))
            .collect()
    };
    let of_client = [
        (CLIENT, "10.0.0.2:7000".to_owned()),
        (CLIENT, "10.96.0.1:80".to_owned()),
    ];
    assert_eq!(dialled(&bench), of_client.into());
    bench.apply(&[CLIENT]);
    assert_eq!(dialled(&bench), [].into());
    bench.apply(&[CLIENT, STORE]);
    bench.change(facts(AppProtocol::Http));
    assert_eq!(dialled(&bench), [].into());
}

#[test]
fn switched_off_nothing_is_allowed_and_what_lives_is_counted() {
    let mut bench = Bench::with(Some("switched off"));
    assert!(bench.table.allowed().is_empty());
    bench.table.live(ends(), flow(5, 7));
    bench.look_at(2);
    assert_eq!(bench.counted(), [1, 0, 7, 5]);
    assert!(bench.destroyed.lock().is_empty());
}

#[test]
fn bytes_of_a_living_flow_are_counted_as_they_move_and_each_once() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(10, 100));
    bench.look_at(2);
    bench.look_at(3);
    assert_eq!(bench.counted(), [1, 0, 100, 10]);
    bench.table.live(ends(), flow(15, 100));
    bench.look_at(4);
    assert_eq!(bench.counted(), [1, 0, 100, 15]);
    bench.table.end(ends(), closed(flow(20, 200), 4));
    bench.look_at(5);
    assert_eq!(bench.counted(), [1, 1, 200, 20]);
    bench.look_at(6);
    assert_eq!(bench.counted(), [1, 1, 200, 20]);
}

#[test]
fn spliced_bytes_count_like_all_others() {
    let mut bench = Bench::new();
    let mut spliced = flow(10, 100);
    spliced.client.spliced = 1;
    spliced.server.spliced = 2;
    bench.table.live(ends(), spliced);
    bench.look_at(2);
    assert_eq!(bench.counted(), [1, 0, 102, 11]);
}

#[test]
fn a_flow_that_was_never_seen_alive_is_counted_whole() {
    let mut bench = Bench::new();
    bench.table.end(ends(), closed(flow(1, 2), 2));
    bench.look_at(3);
    assert_eq!(bench.counted(), [1, 1, 2, 1]);
    assert_eq!(bench.table.counted(&ends()).unwrap(), None);
    let text = bench.telemetry.encode();
    assert!(
        text.contains("connection_security_policy=\"in_process\""),
        "{text}"
    );
    assert!(text.contains("destination_service_name=\"store\""), "{text}");
    assert!(
        text.contains("mesh_connections_path_total{path=\"direct\"} 1\n"),
        "{text}"
    );
    assert!(text.contains("mesh_direct_retransmits_total 2\n"), "{text}");
    assert!(
        text.contains("mesh_direct_round_trip_seconds_count 1\n"),
        "{text}"
    );
}

#[test]
fn a_restarted_agent_counts_only_what_moved_since() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(10, 100));
    bench.look_at(2);
    bench.restart();
    bench.table.live(ends(), flow(11, 103));
    bench.look_at(3);
    assert_eq!(bench.counted(), [0, 0, 3, 1]);
    bench.restart();
    bench.table.end(ends(), closed(flow(11, 104), 3));
    bench.look_at(4);
    assert_eq!(bench.counted(), [0, 1, 1, 0]);
}

#[test]
fn a_later_flow_of_the_same_ends_is_another_one() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(10, 100));
    bench.look_at(2);
    let mut later = flow(1, 1);
    later.started_ns = 2 * SECOND;
    bench.table.live(ends(), later);
    bench.look_at(3);
    assert_eq!(bench.counted(), [2, 1, 101, 11]);
}

#[test]
fn a_flow_whose_report_was_lost_is_closed_with_what_was_known() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(10, 100));
    bench.look_at(2);
    assert!(bench.table.forget(&ends()).unwrap());
    for now_s in 3..=8 {
        bench.look_at(now_s);
    }
    assert_eq!(bench.counted(), [1, 1, 100, 10]);
    assert_eq!(bench.table.counted(&ends()).unwrap(), None);
}

#[test]
fn a_flow_that_both_ends_left_to_the_other_to_report_is_found() {
    let mut bench = Bench::new();
    bench.table.live(ends(), closed(flow(1, 2), 2));
    bench.look_at(3);
    assert_eq!(bench.counted(), [1, 0, 2, 1]);
    bench.look_at(5);
    assert_eq!(bench.counted(), [1, 1, 2, 1]);
}

#[test]
fn a_server_that_does_not_close_is_waited_for_ten_seconds() {
    let mut bench = Bench::new();
    let mut half = closed(flow(1, 2), 2);
    half.server.closed = 0;
    bench.table.live(ends(), half);
    bench.look_at(12);
    assert_eq!(bench.counted()[1], 0);
    bench.look_at(13);
    assert_eq!(bench.counted()[1], 1);
}

#[test]
fn a_flow_that_becomes_http_is_ended_at_both_ends_and_says_so() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(1, 1));
    bench.change(facts(AppProtocol::Http));
    let (client, server) = (
        "10.0.0.1:40000".parse().unwrap(),
        "10.0.0.2:7000".parse().unwrap(),
    );
    let victim = |local, remote, cookie| Victim {
        local,
        remote,
        cookie,
    };
    let wanted = [
        (CLIENT, victim(client, server, 101)),
        (STORE, victim(server, client, 102)),
    ];
    assert_eq!(*bench.destroyed.lock(), wanted);
    bench.table.end(ends(), closed(flow(1, 1), 2));
    bench.look_at(3);
    assert_eq!(bench.destroyed.lock().len(), 2);
    let text = bench.telemetry.encode();
    assert!(text.contains("mesh_direct_revoked_total 1\n"), "{text}");
    assert!(text.contains("response_flags=\"LR\""), "{text}");
}

#[test]
fn a_flow_that_would_only_need_the_agent_if_it_were_new_goes_on() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(1, 1));
    bench.change(facts(AppProtocol::Detect));
    assert!(bench.table.allowed().keys().all(|key| key.dialled.port != 80));
    assert!(bench.destroyed.lock().is_empty());
}

#[test]
fn a_refused_connection_is_one_that_failed() {
    let mut bench = Bench::new();
    let mut refused = closed(flow(0, 0), 1);
    refused.established = 0;
    refused.server_netns = 0;
    refused.client.srtt_us = 0;
    bench.table.end(ends(), refused);
    bench.look_at(2);
    let text = bench.telemetry.encode();
    assert!(text.contains("response_flags=\"UF\""), "{text}");
    assert!(
        text.contains("destination_workload=\"unknown\"") || text.contains("store"),
        "{text}"
    );
    assert!(
        text.contains("mesh_direct_round_trip_seconds_count 0\n"),
        "{text}"
    );
}

#[test]
fn flows_of_a_pod_that_left_are_closed_in_the_books_and_left_alone() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(1, 1));
    bench.look_at(2);
    let mut without = facts(AppProtocol::Tcp);
    without.workloads.remove(0);
    bench.snapshot = snapshot(&without, Some(&bench.snapshot));
    bench.apply(&[STORE]);
    bench.look_at(3);
    assert_eq!(bench.counted(), [1, 1, 1, 1]);
    assert!(bench.destroyed.lock().is_empty());
    assert!(bench.table.flows().unwrap().is_empty());
}

#[test]
fn status_says_what_each_pod_may_and_does() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(1, 1));
    bench.look_at(2);
    let status = bench.direct.status();
    let client = status.pods.iter().find(|pod| pod.pod == "client").unwrap();
    assert_eq!((status.off, client.flows), (None, 1));
    assert_eq!(client.verdicts, 2 + AppProtocol::WELL_KNOWN_TCP.len());
}

#[test]
fn a_map_that_is_nearly_full_lets_nothing_new_in_until_half_of_it_is_free() {
    let mut bench = Bench::new();
    let at = |number: u32| Ends {
        client: Endpoint {
            port: number & 0xffff,
            addr: mesh_common::layout::Addr([number >> 16, 0, 0, 1]),
        },
        server: end("10.0.0.2:7000"),
    };
    let many = MAX_FLOWS / 8 * 7 + 1;
    for number in 0..many {
        bench.table.live(at(number), flow(1, 1));
    }
    bench.look_at(2);
    assert!(bench.table.allowed().is_empty());
    for number in MAX_FLOWS / 2 + 1..many {
        bench.table.end(at(number), closed(flow(1, 1), 2));
    }
    bench.look_at(3);
    assert!(bench.table.allowed().is_empty());
    bench.table.end(at(0), closed(flow(1, 1), 3));
    bench.look_at(4);
    assert!(!bench.table.allowed().is_empty());
}
