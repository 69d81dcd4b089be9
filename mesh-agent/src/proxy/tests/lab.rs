//! Two agents, their pods, and the wire between them.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::facts::{self, LabPod, PODS, PORT, WEB};
use super::flows::TestFlows;
use crate::capture::door::Captured;
use crate::capture::listeners::{PodListeners, PodPorts};
use crate::capture::{Direction, Leaving, PodHost};
use crate::dns::Zone;
use crate::identity::testing::revoking_written;
use crate::identity::{Certificates, EmbeddedCa, NodeFiles, TrustRules};
use crate::lifecycle::{PATIENCE, Tasks};
use crate::mesh::domain::ClusterDomain;
use crate::mesh::facts::Facts;
use crate::mesh::service::AppProtocol;
use crate::pod::LocalPod;
use crate::pod::netns::Netns;
use crate::proxy::{Mesh, Proxy, ProxySettings};
use crate::snapshot::{Snapshot, SnapshotCell, SnapshotSettings};
use crate::telemetry::{AccessLog, Telemetry};

/// Two nodes.
pub(super) struct Lab {
    pub(super) a: Agent,
    pub(super) b: Agent,
    /// What is no agent's: applications, clients, the wire.
    pub(super) tasks: Tasks,
    ca: Arc<EmbeddedCa>,
    last: Mutex<u8>,
    _dir: TempDir,
}

/// One node's agent and what its kernel would know.
pub(super) struct Agent {
    pub(super) mesh: Arc<Mesh>,
    pub(super) proxy: Proxy,
    pub(super) flows: Arc<TestFlows>,
    pub(super) tasks: Tasks,
    outbound: HashMap<IpAddr, SocketAddr>,
    facts: Mutex<Facts>,
    settings: SnapshotSettings,
    rules: watch::Sender<TrustRules>,
    log: PathBuf,
}

impl Lab {
    /// All pods but the late one have joined and have their certificates.
    pub(super) async fn start() -> Self {
        Self::patient_for(Duration::from_mins(1)).await
    }

    /// Whose agents let nothing be silent for longer.
    pub(super) async fn patient_for(idle: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(dir.path(), "cluster.local", Duration::from_hours(24)).unwrap();
        let ca = Arc::new(ca);
        Self {
            a: Box::pin(Agent::start("node-a", &ca, &dir, idle)).await,
            b: Box::pin(Agent::start("node-b", &ca, &dir, idle)).await,
            tasks: Tasks::new(),
            ca,
            last: Mutex::default(),
            _dir: dir,
        }
    }

    /// A Service in front of applications at `addrs`; returns what a client dials. What is on the other node is
    /// known to each agent by what it would dial: the wire.
    pub(super) async fn service(
        &self,
        name: &str,
        protocol: AppProtocol,
        addrs: &[SocketAddr],
    ) -> SocketAddr {
        let vip = IpAddr::V4(Ipv4Addr::new(10, 96, 0, self.unique()));
        for agent in [&self.a, &self.b] {
            let mut endpoints = Vec::new();
            for addr in addrs {
                let pod = LabPod::owning(addr.ip());
                let is_far = pod.joins() && pod.node != &*agent.settings.node;
                let dialled = if is_far {
                    self.steer(*addr, WEB.ip).await
                } else {
                    *addr
                };
                endpoints.push(facts::endpoint(name, dialled));
            }
            agent.change(|facts| {
                facts.services.push(facts::service(name, vip, protocol).into());
                facts.endpoints.extend(endpoints);
            });
        }
        SocketAddr::new(vip, PORT)
    }

    /// Changes what both agents know.
    pub(super) fn change(&self, change: impl Fn(&mut Facts)) {
        self.a.change(&change);
        self.b.change(&change);
    }

    /// Plays the network in front of the application at `app`: who connects to the returned address comes out of
    /// the in-pod listener, seen as `client`.
    pub(super) async fn steer(&self, app: SocketAddr, client: IpAddr) -> SocketAddr {
        let pod = LabPod::owning(app.ip());
        let listener = TcpListener::bind((pod.ip, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mesh = Arc::clone(&self.agent_of(pod).mesh);
        self.tasks.spawn("wire", async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let served = mesh.pods.find(&pod.workload().uid).expect("the pod joined");
                let captured = Captured {
                    stream: stream.into(),
                    peer: SocketAddr::new(client, peer.port()),
                    original: app,
                    direction: Direction::Inbound,
                };
                crate::proxy::serve(&mesh, &served, captured);
            }
        });
        addr
    }

    /// An application of `from` connects to `original`.
    pub(super) async fn dial(&self, from: LabPod, original: SocketAddr) -> TcpStream {
        let agent = self.agent_of(from);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.ip, 0)).unwrap();
        let local = socket.local_addr().unwrap();
        agent.flows.file_original(from.cookie, local, original);
        let stream = socket.connect(agent.outbound[&from.ip]).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The serial number of the certificate that `pod` shows.
    pub(super) fn serial(&self, pod: LabPod) -> String {
        let status = self.agent_of(pod).mesh.certificates.status();
        let of_pod = status.into_iter().find(|one| one.identity == pod.identity());
        of_pod.unwrap().serial.unwrap()
    }

    /// Gives `agent` a list that calls a certificate back.
    pub(super) fn revoke(&self, agent: &Agent, serial: &str) {
        agent.rules.send_replace(revoking_written(&self.ca, serial));
    }

    /// A number that this lab has not given before.
    pub(super) fn unique(&self) -> u8 {
        let mut last = self.last.lock();
        *last += 1;
        *last
    }

    pub(super) fn agent_of(&self, pod: LabPod) -> &Agent {
        if pod.node == "node-a" { &self.a } else { &self.b }
    }
}

impl Agent {
    async fn start(node: &str, ca: &Arc<EmbeddedCa>, dir: &TempDir, idle: Duration) -> Self {
        let tasks = Tasks::new();
        let facts = Facts {
            workloads: PODS.into_iter().map(LabPod::workload).map(Into::into).collect(),
            ..Facts::default()
        };
        let settings = SnapshotSettings {
            node: node.into(),
            root_namespace: "mesh-system".into(),
            trust_domains: ["cluster.local", "old.local"].map(Arc::from).into(),
        };
        let (snapshot, rejections) = Snapshot::build(&facts, &settings, None);
        assert_eq!(rejections, []);
        let rules = watch::Sender::new(TrustRules::default());
        let issuer = Arc::<EmbeddedCa>::clone(ca);
        let certificates = Certificates::with_rules(issuer, &tasks, rules.subscribe());
        let own = PODS.into_iter().filter(|pod| pod.node == node && pod.joins());
        certificates.want(own.clone().map(LabPod::identity));
        soon("certificates", certificates.ready()).await;
        let log = dir.path().join(format!("{node}.log"));
        let mesh = Arc::new(Mesh::new(
            Arc::new(SnapshotCell::new(snapshot)),
            Arc::new(certificates),
            Telemetry::with_access_log(AccessLog::file(&log).unwrap()),
            ProxySettings {
                node: node.into(),
                detect_timeout: Duration::from_millis(100),
                connect_timeout: Duration::from_secs(5),
                idle_timeout: idle,
                endpoint_drain: ENDPOINT_DRAIN,
                handshake_rate: HANDSHAKE_RATE,
                zone: Zone::new(&ClusterDomain::default(), Duration::from_secs(30)).unwrap(),
                root_bundle: dir.path().join("roots.pem"),
                tls_files: NodeFiles::new(Some(&dir.path().join("tls"))),
            },
            Handle::current(),
            tasks.clone(),
        ));
        let mut agent = Self {
            proxy: Proxy::new(Arc::clone(&mesh), Handle::current()),
            mesh,
            flows: Arc::default(),
            tasks,
            outbound: HashMap::new(),
            facts: Mutex::new(facts),
            settings,
            rules,
            log,
        };
        for pod in own {
            agent.join(pod);
        }
        agent
    }

    fn join(&mut self, pod: LabPod) {
        let local = LocalPod {
            workload: Arc::new(pod.workload()),
            netns: Arc::new(Netns::stand_in(pod.cookie)),
            flows: Arc::<TestFlows>::clone(&self.flows),
        };
        let listeners = PodListeners::open(&local, PodPorts::ANY).unwrap();
        let outbound = listeners.outbound_addrs().next().unwrap();
        self.outbound.insert(pod.ip, outbound);
        self.proxy.joined(local, listeners).unwrap();
    }

    pub(super) fn leave(&self, pod: LabPod) {
        self.proxy.left(&pod.workload().uid, Leaving::Unwanted);
    }

    /// Publishes a snapshot of changed facts.
    pub(super) fn change(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock();
        change(&mut facts);
        let previous = self.mesh.snapshots.load();
        let (snapshot, _) = Snapshot::build(&facts, &self.settings, Some(&previous));
        self.mesh.snapshots.publish(snapshot);
    }

    /// Requests and connections under way to all endpoints.
    pub(super) fn load(&self) -> usize {
        let snapshot = self.mesh.snapshots.load();
        snapshot
            .upstreams()
            .flat_map(|upstream| upstream.endpoints())
            .map(|endpoint| endpoint.active())
            .sum()
    }

    /// The samples of one counter: labels and value.
    pub(super) fn samples(&self, name: &str) -> Vec<(BTreeMap<String, String>, u64)> {
        let text = self.mesh.telemetry.encode();
        let of_metric = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name));
        of_metric.map(sample).collect()
    }

    /// The sum of the samples of `name` that have all these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.samples(name)
            .into_iter()
            .filter(|(found, _)| {
                labels
                    .iter()
                    .all(|(key, value)| found.get(*key).map(String::as_str) == Some(*value))
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// The access log so far.
    pub(super) fn log(&self) -> Vec<serde_json::Value> {
        assert!(self.mesh.telemetry.access_log().flush(PATIENCE));
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until the access log has `count` lines.
    pub(super) async fn logged(&self, count: usize) -> Vec<serde_json::Value> {
        eventually("access log", || self.log().len() >= count).await;
        self.log()
    }
}

fn sample(line: &str) -> (BTreeMap<String, String>, u64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let labels = series
        .split_once('{')
        .map(|(_, labels)| labels.trim_end_matches('}'))
        .unwrap_or_default();
    let labels = labels
        .split("\",")
        .filter_map(|label| label.split_once("=\""))
        .map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned()));
    (labels.collect(), value.parse().unwrap())
}

/// Waits for what must happen soon; a test that would hang fails instead.
pub(super) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing happened within {PATIENCE:?}"))
}

/// Lets everything run until `holds`.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// So short that a test can wait for it.
const ENDPOINT_DRAIN: Duration = Duration::from_millis(500);
/// So few that a test can use them up.
pub(super) const HANDSHAKE_RATE: NonZeroU32 = NonZeroU32::new(200).unwrap();
