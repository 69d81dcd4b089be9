//! What may go past the agent, what does, and what is counted of it: a table in memory, of which a test plays the hooks.

mod allowed;
mod books;

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_common::direct::{EndStats, Ends, Flow};
use mesh_common::layout::Endpoint;
use parking_lot::Mutex;

use super::*;
use crate::kernel::direct::fake::FakeDirect;
use crate::kernel::fake::FakeFlows;
use crate::mesh::facts::{Facts, ObjectMeta};
use crate::mesh::service::{AppProtocol, EndpointCondition, Resilience, Service, ServiceName, ServicePort};
use crate::mesh::traffic::{EndpointPlace, ServiceTraffic};
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
        placement: Some(
            Placement {
                netns: format!("/run/netns/{name}").into(),
                cgroup: format!("/cg/{name}").into(),
            }
            .into(),
        ),
        ..pod("shop", name)
    };
    let meta = Arc::new(ObjectMeta {
        origin: "test".into(),
        object: "Service shop/store".into(),
        created: None,
    });
    Facts {
        workloads: vec![
            placed("client", "10.0.0.1").into(),
            placed("store", "10.0.0.2").into(),
        ],
        services: vec![
            Service {
                name: ServiceName::new("shop", "store"),
                meta: Arc::clone(&meta),
                vips: vec!["10.96.0.1".parse().unwrap()],
                is_headless: false,
                ports: vec![ServicePort {
                    name: "main".into(),
                    port: 80,
                    protocol,
                }],
                traffic: ServiceTraffic::default(),
                resilience: Resilience::default(),
            }
            .into(),
        ],
        endpoints: vec![crate::mesh::service::Endpoint {
            hostname: None,
            place: EndpointPlace::default(),
            labels: BTreeMap::new(),
            weight: 1,
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
        trust_domains: Arc::new([]),
    };
    Snapshot::build(facts, &settings, previous).0
}

fn local(facts: &Facts, cookie: u64) -> LocalPod {
    let index = usize::from(cookie != CLIENT);
    LocalPod {
        workload: Arc::clone(facts.workloads[index].arc()),
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
