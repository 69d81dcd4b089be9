//! One connection that went past the agent: counted from what the kernel tells, whenever it tells it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Telemetry;
use super::access_log::Entry;
use super::flag::ResponseFlag;
use super::labels::{FlowLabels, PathTaken, Reporter};
use super::series::Series;
use super::tcp::{TcpCounters, TcpLabels};

/// What is known of a direct connection from its start on.
#[derive(Debug, Clone)]
pub struct DirectStart {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client dialled.
    pub destination: SocketAddr,
    /// The endpoint that it reached.
    pub upstream: SocketAddr,
    /// When its SYN left.
    pub started: SystemTime,
}

/// How a direct connection ended.
#[derive(Debug, Clone, Copy)]
pub struct DirectEnd {
    /// From its SYN to its end.
    pub duration: Duration,
    /// All bytes from the callee to the caller.
    pub sent: u64,
    /// All bytes from the caller to the callee.
    pub received: u64,
    /// Why it ended badly, and one fixed word for it.
    pub fault: Option<(ResponseFlag, &'static str)>,
}

/// One reporter's side of a direct connection. Dropped without [`DirectRecord::close`] it says nothing: the connection
/// outlives the agent, and the next one closes it.
#[derive(Debug)]
pub struct DirectRecord {
    telemetry: Telemetry,
    flow: FlowLabels,
    start: DirectStart,
    /// Held, so that it is not forgotten while the connection lives.
    series: Arc<Series<TcpCounters>>,
}

impl DirectRecord {
    /// `is_new` says whether no agent counted it as opened yet.
    pub(super) fn open(telemetry: Telemetry, flow: FlowLabels, start: DirectStart, is_new: bool) -> Self {
        let labels = TcpLabels::Flow {
            flow: flow.clone(),
            flag: None,
        };
        let series = telemetry.tcp_series().series(&labels, Instant::now());
        if is_new {
            series.counters.opened.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            telemetry,
            flow,
            start,
            series,
        }
    }

    /// So many bytes more, from the callee to the caller and back.
    pub fn add(&self, sent: u64, received: u64) {
        self.series.counters.sent.fetch_add(sent, Ordering::Relaxed);
        self.series
            .counters
            .received
            .fetch_add(received, Ordering::Relaxed);
    }

    /// Counts it as closed, and writes its line.
    pub fn close(self, end: DirectEnd) {
        let labels = TcpLabels::Flow {
            flow: self.flow.clone(),
            flag: end.fault.map(|(flag, _)| flag),
        };
        let closing = self.telemetry.tcp_series().series(&labels, Instant::now());
        closing.counters.closed.fetch_add(1, Ordering::Relaxed);
        // Told once for a connection, by its first reporter.
        let path = (self.flow.reporter == Reporter::Source).then_some(PathTaken::Direct);
        if let Some(path) = path {
            self.telemetry.mesh().connection_took(path);
        }
        self.telemetry.access_log().write(Entry {
            flow: self.flow,
            wall: self.start.started,
            duration: end.duration,
            source: Some(self.start.source),
            destination: Some(self.start.destination),
            http: None,
            status: None,
            responded_after: None,
            grpc_status: None,
            flag: end.fault.map(|(flag, _)| flag),
            upstream: Some(self.start.upstream),
            route: None,
            details: end.fault.map(|(_, details)| details.into()),
            path,
            received: end.received,
            sent: end.sent,
        });
    }
}

/// Families of all direct connections together.
#[derive(Debug)]
pub struct DirectMetrics {
    flows: Gauge,
    verdicts: Gauge,
    left_out: Gauge,
    revoked: Counter,
    lost: Counter,
    unreported: Counter,
    retransmits: Counter,
    round_trip: Histogram,
}

impl DirectMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            flows: Gauge::default(),
            verdicts: Gauge::default(),
            left_out: Gauge::default(),
            revoked: Counter::default(),
            lost: Counter::default(),
            unreported: Counter::default(),
            retransmits: Counter::default(),
            round_trip: Histogram::new(ROUND_TRIPS_S),
        };
        for (name, help, gauge) in [
            (
                "mesh_direct_flows",
                "Connections between pods of this node that go past the agent now",
                &metrics.flows,
            ),
            (
                "mesh_direct_verdicts",
                "Destinations that pods of this node may dial directly",
                &metrics.verdicts,
            ),
            (
                "mesh_direct_verdicts_left_out",
                "Destinations that found no room among the verdicts and are served by the agent",
                &metrics.left_out,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            (
                "mesh_direct_revoked",
                "Direct connections that were ended because they are not allowed any more",
                &metrics.revoked,
            ),
            (
                "mesh_direct_lost",
                "Connections that might have gone direct and could not be registered, since the maps were made",
                &metrics.lost,
            ),
            (
                "mesh_direct_unreported",
                "Direct connections whose end found no room in the kernel's reports, since the maps were made",
                &metrics.unreported,
            ),
            (
                "mesh_direct_retransmits",
                "Segments of ended direct connections that were sent again, by either end",
                &metrics.retransmits,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register_with_unit(
            "mesh_direct_round_trip",
            "Smoothed round-trip time of ended direct connections, as the dialling end last had it",
            Unit::Seconds,
            metrics.round_trip.clone(),
        );
        metrics
    }

    /// So many connections live.
    pub fn flows(&self, flows: usize) {
        self.flows.set(i64::try_from(flows).unwrap_or(i64::MAX));
    }

    /// So many verdicts are in force, and so many found no room.
    pub fn verdicts(&self, verdicts: usize, left_out: usize) {
        self.verdicts.set(i64::try_from(verdicts).unwrap_or(i64::MAX));
        self.left_out.set(i64::try_from(left_out).unwrap_or(i64::MAX));
    }

    /// A connection was ended because it is not allowed any more.
    pub fn revoked(&self) {
        self.revoked.inc();
    }

    /// What the kernel counts, across restarts: connections that could not be registered, ends that were not reported.
    pub fn losses(&self, lost: u64, unreported: u64) {
        self.lost.inner().store(lost, Ordering::Relaxed);
        self.unreported.inner().store(unreported, Ordering::Relaxed);
    }

    /// A connection ended, having sent so many segments again; `round_trip` is `None` where there was none to measure.
    pub fn ended(&self, retransmits: u64, round_trip: Option<Duration>) {
        self.retransmits.inc_by(retransmits);
        if let Some(round_trip) = round_trip {
            self.round_trip.observe(round_trip.as_secs_f64());
        }
    }
}

/// From what a splice takes to what only a queue explains.
const ROUND_TRIPS_S: [f64; 10] = [
    0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.005, 0.02, 0.1,
];
