//! One opaque connection, from its acceptance to its last byte.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::Telemetry;
use super::access_log::Entry;
use super::encode::{flow as encode_flow, label, overflow as encode_overflow};
use super::flag::{self, ResponseFlag};
use super::labels::{FlowLabels, PathTaken, Reporter};
use super::series::{Series, SeriesLabels, SeriesTable};

/// What is known of a connection when it is opened.
#[derive(Debug, Clone)]
pub struct TcpStart {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client dialled.
    pub destination: SocketAddr,
    /// When it was accepted.
    pub started: Instant,
}

/// Counts one connection: opened at once, bytes as they move, closed and logged when dropped.
///
/// Open it when both sides are known. Bytes stand under `response_flags="-"` since nobody knows yet how the
/// connection will end; only `closed` carries the flag.
#[derive(Debug)]
pub struct TcpRecord {
    telemetry: Telemetry,
    flow: FlowLabels,
    start: TcpStart,
    wall: SystemTime,
    /// Looked up once; held, so that it is not forgotten while the connection lives.
    series: Arc<Series<TcpCounters>>,
    sent: AtomicU64,
    received: AtomicU64,
    late: Mutex<Late>,
}

#[derive(Debug, Default)]
struct Late {
    flag: Option<ResponseFlag>,
    upstream: Option<SocketAddr>,
    details: Option<Cow<'static, str>>,
    path: Option<PathTaken>,
    route: Option<String>,
}

impl TcpRecord {
    pub(super) fn open(telemetry: Telemetry, flow: FlowLabels, start: TcpStart) -> Self {
        let labels = TcpLabels::Flow {
            flow: flow.clone(),
            flag: None,
        };
        let series = telemetry.tcp_series().series(&labels, start.started);
        series.counters.opened.fetch_add(1, Ordering::Relaxed);
        Self {
            telemetry,
            flow,
            start,
            wall: SystemTime::now(),
            series,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            late: Mutex::default(),
        }
    }

    /// Bytes from the callee to the caller (Istio's "sent during the response"). Two atomic additions.
    pub fn add_sent_bytes(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.series.counters.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes from the caller to the callee (Istio's "received during the request"). Two atomic additions.
    pub fn add_received_bytes(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.series.counters.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Why the connection ended badly. The first cause stays.
    pub fn flag(&self, flag: ResponseFlag) {
        self.late().flag.get_or_insert(flag);
    }

    /// The endpoint that was dialled.
    pub fn upstream(&self, addr: SocketAddr) {
        self.late().upstream = Some(addr);
    }

    /// The route that sent it there.
    pub fn route(&self, name: &str) {
        self.late().route = Some(name.to_owned());
    }

    /// The cause, in words of the program or of a policy. The first stays.
    pub fn details(&self, details: impl Into<Cow<'static, str>>) {
        self.late().details.get_or_insert(details.into());
    }

    /// Which way the connection took; on one side only, as for requests.
    pub fn path_taken(&self, path: PathTaken) {
        self.late().path = Some(path);
    }

    /// No field depends on another, so a lock that a panic poisoned is still good.
    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        let now = Instant::now();
        let late = self.late.get_mut().unwrap_or_else(PoisonError::into_inner);
        let labels = TcpLabels::Flow {
            flow: self.flow.clone(),
            flag: late.flag,
        };
        let closing = self.telemetry.tcp_series().series(&labels, now);
        closing.counters.closed.fetch_add(1, Ordering::Relaxed);
        if let Some(path) = late.path {
            self.telemetry.mesh().connection_took(path);
        }
        let entry = Entry {
            flow: self.flow.clone(),
            wall: self.wall,
            duration: now.saturating_duration_since(self.start.started),
            source: Some(self.start.source),
            destination: Some(self.start.destination),
            http: None,
            status: None,
            responded_after: None,
            grpc_status: None,
            flag: late.flag,
            upstream: late.upstream,
            route: late.route.take(),
            details: late.details.take(),
            path: late.path,
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        };
        self.telemetry.access_log().write(entry);
    }
}

/// The labels of Istio's TCP metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum TcpLabels {
    Flow {
        flow: FlowLabels,
        flag: Option<ResponseFlag>,
    },
    Overflow(Reporter),
}

impl SeriesLabels for TcpLabels {
    fn overflow(&self) -> Self {
        match self {
            Self::Flow { flow, .. } => Self::Overflow(flow.reporter),
            Self::Overflow(reporter) => Self::Overflow(*reporter),
        }
    }
}

impl EncodeLabelSet for TcpLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        match self {
            Self::Overflow(reporter) => encode_overflow(
                encoder,
                *reporter,
                &["request_protocol", "response_flags", "connection_security_policy"],
            ),
            Self::Flow { flow, flag } => {
                encode_flow(encoder, flow)?;
                label(encoder, "request_protocol", "tcp")?;
                label(encoder, "response_flags", flag::text(*flag))?;
                label(encoder, "connection_security_policy", flow.security.as_str())
            }
        }
    }
}

/// The four families of one label set.
#[derive(Debug, Default)]
pub(super) struct TcpCounters {
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// Shows the TCP series on each scrape.
#[derive(Debug)]
pub(super) struct TcpCollector(pub(super) Arc<SeriesTable<TcpLabels, TcpCounters>>);

impl Collector for TcpCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        for (name, help, select) in FAMILIES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            self.0.for_each(|labels, counters| {
                let value = select(counters).load(Ordering::Relaxed);
                metric
                    .encode_family(labels)?
                    .encode_counter::<NoLabelSet, _, f64>(&value, None)
            })?;
        }
        Ok(())
    }
}

type Family = (&'static str, &'static str, fn(&TcpCounters) -> &AtomicU64);

const FAMILIES: [Family; 4] = [
    (
        "istio_tcp_connections_opened",
        "Connections that were opened.",
        |counters| &counters.opened,
    ),
    (
        "istio_tcp_connections_closed",
        "Connections that were closed.",
        |counters| &counters.closed,
    ),
    (
        "istio_tcp_sent_bytes",
        "Bytes from the callee to the caller.",
        |counters| &counters.sent,
    ),
    (
        "istio_tcp_received_bytes",
        "Bytes from the caller to the callee.",
        |counters| &counters.received,
    ),
];
