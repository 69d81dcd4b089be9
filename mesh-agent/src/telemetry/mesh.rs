//! The agent's own families, `mesh_*`: what it was told, what it holds, what it refused.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::crowding::CrowdingMetrics;
use super::handshakes::HandshakeMetrics;
use super::labels::{PathTaken, PeerLabels};
use super::legs::LegBytes;
use super::policy::PolicyMetrics;

/// Families that engines write. Values of labels are `&'static str`: words of the program, never of a peer.
#[derive(Debug)]
pub struct MeshMetrics {
    /// Kinds that were ever rejected: one whose objects are all good again shows zero.
    rejected_kinds: Mutex<BTreeMap<&'static str, i64>>,
    config_rejections: Family<Label, Gauge>,
    config_version: Gauge,
    config_success: Gauge,
    pods_wanted: Gauge,
    pods_enrolled: Gauge,
    hooks: HookMetrics,
    splice: Gauge,
    pub(super) legs: LegBytes,
    handshakes: HandshakeMetrics,
    crowding: CrowdingMetrics,
    captured: [Counter; 2],
    uncaptured: [Counter; 2],
    pub(super) policy: PolicyMetrics,
    request_paths: [Counter; 4],
    connection_paths: [Counter; 4],
    dns: [Counter; 4],
}

/// One label: its name and its value.
pub(super) type Label = [(&'static str, &'static str); 1];

/// Which way a captured connection goes, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a pod of this node.
    Outbound,
    /// To a pod of this node.
    Inbound,
}

/// What became of a captured DNS question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DnsOutcome {
    /// It was about a Service that is known.
    Answered,
    /// The pod's own resolver answered it; of DNS over TCP, it went there together with all that followed.
    Forwarded,
    /// The resolver did not answer, or too many questions waited for it.
    Failed,
    /// It was no question, and was dropped.
    Malformed,
}

/// Which role the agent had in a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeSide {
    /// It dialled.
    Client,
    /// It accepted.
    Server,
}

/// What is known of the hooks and their maps.
#[derive(Debug)]
struct HookMetrics {
    repairs: Family<Label, Counter>,
    bypassed: Counter,
    map_overflows: Family<Label, Counter>,
}

impl MeshMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        register_build(registry);
        let [pods_wanted, pods_enrolled] = family(
            registry,
            (
                "mesh_pods",
                "Pods of this node that should be, and that are, enrolled",
            ),
            ("state", ["wanted", "enrolled"]),
        );
        Self {
            rejected_kinds: Mutex::default(),
            config_rejections: registered(
                registry,
                (
                    "mesh_config_rejections",
                    "Objects that the served configuration leaves out, by kind",
                ),
            ),
            config_version: registered(
                registry,
                ("mesh_config_version", "Version of the snapshot that is served"),
            ),
            config_success: register_success(registry),
            pods_wanted,
            pods_enrolled,
            hooks: HookMetrics::register(registry),
            splice: registered(
                registry,
                (
                    "mesh_splice_enabled",
                    "Whether direct flows are spliced past TCP: 1 when the trial on this kernel passed",
                ),
            ),
            legs: LegBytes::register(registry),
            handshakes: HandshakeMetrics::register(registry),
            crowding: CrowdingMetrics::register(registry),
            captured: family(
                registry,
                (
                    "mesh_captured_connections",
                    "Connections that the kernel handed to the agent",
                ),
                ("direction", DIRECTIONS),
            ),
            uncaptured: family(
                registry,
                (
                    "mesh_uncaptured_connections",
                    "Connections to the agent's own ports that no hook had captured, closed at once",
                ),
                ("direction", DIRECTIONS),
            ),
            policy: PolicyMetrics::register(registry),
            request_paths: family(
                registry,
                ("mesh_requests_path", "Requests by the way they took"),
                ("path", PathTaken::ALL.map(PathTaken::as_str)),
            ),
            dns: register_dns(registry),
            connection_paths: family(
                registry,
                ("mesh_connections_path", "Connections by the way they took"),
                ("path", PathTaken::ALL.map(PathTaken::as_str)),
            ),
        }
    }

    /// A snapshot was published. `rejections` holds one word for each object that was left out: its kind.
    pub fn config_published(
        &self,
        version: u64,
        at: SystemTime,
        rejections: impl IntoIterator<Item = &'static str>,
    ) {
        self.config_version
            .set(i64::try_from(version).unwrap_or(i64::MAX));
        self.config_success.set(epoch_seconds(at));
        let mut counts = self.rejected_kinds.lock().unwrap_or_else(PoisonError::into_inner);
        counts.values_mut().for_each(|count| *count = 0);
        for kind in rejections {
            *counts.entry(kind).or_default() += 1;
        }
        for (kind, count) in counts.iter() {
            self.config_rejections
                .get_or_create(&[("kind", kind)])
                .set(*count);
        }
    }

    /// How many pods of this node should take part, and how many do.
    pub fn pods(&self, wanted: usize, enrolled: usize) {
        self.pods_wanted.set(i64::try_from(wanted).unwrap_or(i64::MAX));
        self.pods_enrolled
            .set(i64::try_from(enrolled).unwrap_or(i64::MAX));
    }

    /// So many connections went past a dead agent: the kernel counts them, across restarts.
    pub fn bypassed(&self, connections: u64) {
        self.hooks.bypassed.inner().store(connections, Ordering::Relaxed);
    }

    /// Whether direct flows are spliced.
    pub fn splice(&self, is_on: bool) {
        self.splice.set(i64::from(is_on));
    }

    /// A map had no room for so many entries until now; whether they are more than before.
    pub fn map_overflowed(&self, map: &'static str, entries: u64) -> bool {
        let count = self.hooks.map_overflows.get_or_create_owned(&[("map", map)]);
        count.inner().swap(entries, Ordering::Relaxed) < entries
    }

    /// Somebody else had taken these parts of a pod's capture away or changed them: they are as they should be again.
    pub fn capture_repaired(&self, parts: impl IntoIterator<Item = &'static str>) {
        for part in parts {
            self.hooks.repairs.get_or_create_owned(&[("part", part)]).inc();
        }
    }

    /// A TLS handshake failed for `reason`, a word of a closed enum.
    pub fn handshake_failed(&self, side: HandshakeSide, reason: &'static str) {
        self.handshakes.failed(side, reason);
    }

    /// A pod of this node had too many TLS handshakes to begin another one, for `reason`, a word of a closed enum.
    pub fn handshake_refused(&self, direction: Direction, pod: &PeerLabels, reason: &'static str) {
        self.crowding.handshake(direction, pod, reason);
    }

    /// A pod of this node had as many of `limit`, a word of a closed enum, as it may have: one more was refused.
    pub fn pod_limit_refused(&self, direction: Direction, pod: &PeerLabels, limit: &'static str) {
        self.crowding.limit(direction, pod, limit);
    }

    /// The agent accepted a captured connection.
    pub fn captured(&self, direction: Direction) {
        let [outbound, inbound] = &self.captured;
        by_direction(direction, outbound, inbound).inc();
    }

    /// Somebody reached a port of the agent itself: the connection was closed.
    pub fn uncaptured(&self, direction: Direction) {
        let [outbound, inbound] = &self.uncaptured;
        by_direction(direction, outbound, inbound).inc();
    }

    /// Policy refused a flow for `reason`, a word of a closed enum.
    pub fn denied(&self, reason: &'static str) {
        self.policy.denials.get_or_create(&[("reason", reason)]).inc();
    }

    /// A fetch of an issuer's public keys ended.
    pub fn keys_fetched(&self, is_ok: bool) {
        let [ok, failed] = &self.policy.key_fetches;
        if is_ok { ok } else { failed }.inc();
    }

    /// As many sources of public keys were never fetched.
    pub fn keys_missing(&self, sources: usize) {
        self.policy
            .keys_missing
            .set(i64::try_from(sources).unwrap_or(i64::MAX));
    }

    /// An AUDIT policy matched.
    pub fn audited(&self) {
        self.policy.audits.inc();
    }

    /// Policies on trial were asked.
    pub fn dry_run(&self, would_deny: bool) {
        let [allow, deny] = &self.policy.dry_runs;
        if would_deny { deny } else { allow }.inc();
    }

    /// A captured DNS question was dealt with.
    pub fn dns_request(&self, outcome: DnsOutcome) {
        let [answered, forwarded, failed, malformed] = &self.dns;
        let counter = match outcome {
            DnsOutcome::Answered => answered,
            DnsOutcome::Forwarded => forwarded,
            DnsOutcome::Failed => failed,
            DnsOutcome::Malformed => malformed,
        };
        counter.inc();
    }

    pub(super) fn request_took(&self, path: PathTaken) {
        by_path(path, &self.request_paths).inc();
    }

    pub(super) fn connection_took(&self, path: PathTaken) {
        by_path(path, &self.connection_paths).inc();
    }
}

impl HookMetrics {
    fn register(registry: &mut Registry) -> Self {
        Self {
            repairs: registered(
                registry,
                (
                    "mesh_capture_repairs",
                    "Hooks and map entries of pods that somebody else had taken away or changed and that were put back",
                ),
            ),
            bypassed: registered(
                registry,
                (
                    "mesh_bypassed_connections",
                    "Connections of pods that fail open which went past a dead agent, since the maps were made",
                ),
            ),
            map_overflows: registered(
                registry,
                (
                    "mesh_map_overflow",
                    "Entries for which a map of the kernel had no room",
                ),
            ),
        }
    }
}

fn by_direction<'a>(direction: Direction, outbound: &'a Counter, inbound: &'a Counter) -> &'a Counter {
    match direction {
        Direction::Outbound => outbound,
        Direction::Inbound => inbound,
    }
}

fn by_path(path: PathTaken, [same_node, direct, other_node, plain]: &[Counter; 4]) -> &Counter {
    match path {
        PathTaken::SameNode => same_node,
        PathTaken::Direct => direct,
        PathTaken::OtherNode => other_node,
        PathTaken::Plain => plain,
    }
}

/// Registers a metric, or a family whose members come with use.
pub(super) fn registered<M>(registry: &mut Registry, (name, help): (&'static str, &'static str)) -> M
where
    M: Metric + Clone + Default,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Registers one metric for each value of a label, all shown from the start at zero.
pub(super) fn family<M, const N: usize>(
    registry: &mut Registry,
    name_and_help: (&'static str, &'static str),
    (label, values): (&'static str, [&'static str; N]),
) -> [M; N]
where
    M: Metric + TypedMetric + Clone + Default,
{
    let family: Family<Label, M> = registered(registry, name_and_help);
    values.map(|value| family.get_or_create_owned(&[(label, value)]))
}

/// In the order of [`DnsOutcome`].
fn register_dns(registry: &mut Registry) -> [Counter; 4] {
    family(
        registry,
        (
            "mesh_dns_requests",
            "Captured DNS questions by what became of them",
        ),
        ("outcome", ["answered", "forwarded", "failed", "malformed"]),
    )
}

fn register_success(registry: &mut Registry) -> Gauge {
    let gauge = Gauge::default();
    registry.register_with_unit(
        "mesh_config_last_success_timestamp",
        "When a snapshot was last published, since the epoch",
        Unit::Seconds,
        gauge.clone(),
    );
    gauge
}

/// Gauges of one, the convention for what is known by its labels.
fn register_build(registry: &mut Registry) {
    let version = env!("CARGO_PKG_VERSION");
    let build: Family<Label, Gauge> =
        registered(registry, ("mesh_build_info", "What this agent was built from"));
    build.get_or_create(&[("version", version)]).set(1);
    let component: Family<[(&'static str, &'static str); 2], Gauge> = registered(
        registry,
        (
            "istio_build",
            "The component's version, where Istio's dashboards look for it",
        ),
    );
    component
        .get_or_create(&[("component", "mesh-agent"), ("tag", version)])
        .set(1);
}

/// Seconds since the epoch; negative before it.
pub(super) fn epoch_seconds(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

const DIRECTIONS: [&str; 2] = ["outbound", "inbound"];
