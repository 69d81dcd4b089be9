//! One HTTP request, from its head to the end of its response body.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::Telemetry;
use super::access_log::Entry;
use super::encode::{flow as encode_flow, label, overflow as encode_overflow};
use super::flag::{self, ResponseFlag};
use super::histogram::{BYTES, Histogram, MILLISECONDS};
use super::labels::{FlowLabels, PathTaken, PeerLabels, Reporter, Security, UNKNOWN};
use super::series::{SeriesLabels, SeriesTable};
use crate::mesh::service::ServiceName;

/// What is known of a request when its head has been read. Its texts stay empty where no access log is written.
#[derive(Debug, Clone)]
pub struct HttpStart {
    /// Only for the access log.
    pub method: http::Method,
    /// Path and query, only for the access log.
    pub path: String,
    /// `:authority` or `host`, only for the access log.
    pub authority: String,
    /// As the client spoke it.
    pub protocol: http::Version,
    /// Header `user-agent`.
    pub user_agent: Option<String>,
    /// Header `x-request-id`.
    pub request_id: Option<String>,
    /// Header `x-forwarded-for`.
    pub x_forwarded_for: Option<String>,
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client dialled.
    pub destination: SocketAddr,
    /// When the head was complete.
    pub started: Instant,
}

/// Counts and logs one request when dropped.
///
/// Share it (`Arc`) between the request body, the response body and the walk: whoever drops it last closes it.
/// What is learned late (the chosen endpoint) replaces what the flow was opened with.
#[derive(Debug)]
pub struct HttpRecord {
    telemetry: Telemetry,
    start: Arc<HttpStart>,
    /// When it began by the calendar, which only the access log shows.
    wall: Option<SystemTime>,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    late: Mutex<Late>,
}

/// What is learned after the head of the request.
#[derive(Debug)]
struct Late {
    flow: FlowLabels,
    is_grpc: bool,
    status: Option<u16>,
    responded_after: Option<Duration>,
    grpc_status: Option<u32>,
    flag: Option<ResponseFlag>,
    upstream: Option<SocketAddr>,
    route: Option<String>,
    details: Option<Cow<'static, str>>,
    path: Option<PathTaken>,
}

impl HttpRecord {
    pub(super) fn open(telemetry: Telemetry, flow: FlowLabels, start: Arc<HttpStart>) -> Self {
        let late = Late {
            flow,
            is_grpc: false,
            status: None,
            responded_after: None,
            grpc_status: None,
            flag: None,
            upstream: None,
            route: None,
            details: None,
            path: None,
        };
        Self {
            wall: telemetry.access_log().is_on().then(SystemTime::now),
            telemetry,
            start,
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            late: Mutex::new(late),
        }
    }

    /// The request's content type is gRPC's: `request_protocol` is `grpc`.
    pub fn request_is_grpc(&self) {
        self.late().is_grpc = true;
    }

    /// The head of the response went to the client.
    pub fn respond(&self, status: u16) {
        let after = self.start.started.elapsed();
        let mut late = self.late();
        late.status = Some(status);
        late.responded_after = Some(after);
    }

    /// `grpc-status`, from the trailers or from a head without body.
    pub fn grpc_status(&self, code: u32) {
        self.late().grpc_status = Some(code);
    }

    /// Why the request ended badly. The first cause stays; what follows from it does not replace it.
    pub fn flag(&self, flag: ResponseFlag) {
        self.late().flag.get_or_insert(flag);
    }

    /// The route that matched.
    pub fn route(&self, name: &str) {
        self.late().route = Some(name.to_owned());
    }

    /// The callee, once an endpoint is chosen, how the bytes to it are protected, and the address that is dialled; of several
    /// attempts, the last.
    pub fn sent_to(&self, destination: Arc<PeerLabels>, security: Security, addr: SocketAddr) {
        let mut late = self.late();
        late.flow.destination = destination;
        late.flow.security = security;
        late.upstream = Some(addr);
    }

    /// The Service, once a route sent the request to another than the one that was called.
    pub fn service(&self, service: ServiceName) {
        self.late().flow.service = Some(service);
    }

    /// Bytes of the request's body.
    pub fn add_request_bytes(&self, bytes: u64) {
        self.request_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of the response's body.
    pub fn add_response_bytes(&self, bytes: u64) {
        self.response_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Envoy's `response_code_details`: the cause, in words of the program or of a policy. The first stays.
    pub fn details(&self, details: impl Into<Cow<'static, str>>) {
        self.late().details.get_or_insert(details.into());
    }

    /// Which way the request took. Tell it on one side only, the source's where both are in this agent, so that
    /// `mesh_requests_path_total` counts each request once.
    pub fn path_taken(&self, path: PathTaken) {
        self.late().path = Some(path);
    }

    /// No field depends on another, so a lock that a panic poisoned is still good.
    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HttpRecord {
    fn drop(&mut self) {
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.start.started);
        let sent = self.response_bytes.load(Ordering::Relaxed);
        let received = self.request_bytes.load(Ordering::Relaxed);
        let late = self.late.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Nothing was answered and nobody refused: the client went away first.
        let flag = late
            .flag
            .or_else(|| late.status.is_none().then_some(ResponseFlag::Dc));
        let labels = HttpLabels::Flow {
            flow: late.flow.clone(),
            is_grpc: late.is_grpc,
            status: late.status,
            grpc_status: late.grpc_status,
            flag,
        };
        let series = self.telemetry.http_series().series(&labels, now);
        series.counters.record(duration, received, sent);
        if let Some(path) = late.path {
            self.telemetry.mesh().request_took(path);
        }
        let Some(wall) = self.wall else { return };
        let entry = Entry {
            flow: late.flow.clone(),
            wall,
            duration,
            source: Some(self.start.source),
            destination: Some(self.start.destination),
            http: Some(Arc::clone(&self.start)),
            status: Some(late.status.unwrap_or(0)),
            responded_after: late.responded_after,
            grpc_status: late.grpc_status,
            flag,
            upstream: late.upstream,
            route: late.route.take(),
            details: late.details.take(),
            path: late.path,
            received,
            sent,
        };
        self.telemetry.access_log().write(entry);
    }
}

/// The labels of Istio's HTTP metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum HttpLabels {
    Flow {
        flow: FlowLabels,
        is_grpc: bool,
        status: Option<u16>,
        grpc_status: Option<u32>,
        flag: Option<ResponseFlag>,
    },
    Overflow(Reporter),
}

impl SeriesLabels for HttpLabels {
    fn overflow(&self) -> Self {
        match self {
            Self::Flow { flow, .. } => Self::Overflow(flow.reporter),
            Self::Overflow(reporter) => Self::Overflow(*reporter),
        }
    }
}

impl EncodeLabelSet for HttpLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        match self {
            Self::Overflow(reporter) => encode_overflow(
                encoder,
                *reporter,
                &[
                    "request_protocol",
                    "response_code",
                    "grpc_response_status",
                    "response_flags",
                    "connection_security_policy",
                ],
            ),
            Self::Flow {
                flow,
                is_grpc,
                status,
                grpc_status,
                flag,
            } => {
                encode_flow(encoder, flow)?;
                label(
                    encoder,
                    "request_protocol",
                    if *is_grpc { "grpc" } else { "http" },
                )?;
                label(encoder, "response_code", &status_text(*status))?;
                label(encoder, "grpc_response_status", &grpc_status_text(*grpc_status))?;
                label(encoder, "response_flags", flag::text(*flag))?;
                label(encoder, "connection_security_policy", flow.security.as_str())
            }
        }
    }
}

/// Envoy's `0` when there was no response; a back end cannot invent codes that HTTP does not have.
fn status_text(status: Option<u16>) -> String {
    match status {
        None => "0".to_owned(),
        Some(status @ 100..=599) => status.to_string(),
        Some(_) => UNKNOWN.to_owned(),
    }
}

/// gRPC has the codes 0 to 16; empty when the response had none.
fn grpc_status_text(code: Option<u32>) -> String {
    match code {
        None => String::new(),
        Some(code @ 0..=16) => code.to_string(),
        Some(_) => UNKNOWN.to_owned(),
    }
}

/// The four families of one label set.
#[derive(Debug)]
pub(super) struct HttpCounters {
    requests: AtomicU64,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl HttpCounters {
    fn record(&self, duration: Duration, received: u64, sent: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.duration
            .observe(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        self.request_bytes.observe(received);
        self.response_bytes.observe(sent);
    }
}

impl Default for HttpCounters {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            duration: Histogram::new(&MILLISECONDS),
            request_bytes: Histogram::new(&BYTES),
            response_bytes: Histogram::new(&BYTES),
        }
    }
}

/// Shows the HTTP series on each scrape.
#[derive(Debug)]
pub(super) struct HttpCollector(pub(super) Arc<SeriesTable<HttpLabels, HttpCounters>>);

impl Collector for HttpCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let help = "Requests that were answered or given up.";
        let mut metric = encoder.encode_descriptor("istio_requests", help, None, MetricType::Counter)?;
        self.0.for_each(|labels, counters| {
            let requests = counters.requests.load(Ordering::Relaxed);
            metric
                .encode_family(labels)?
                .encode_counter::<NoLabelSet, _, f64>(&requests, None)
        })?;
        self.histogram(
            &mut encoder,
            (
                "istio_request_duration",
                "Time from the request's head to the end of the response.",
            ),
            &Unit::Other("milliseconds".to_owned()),
            |counters| &counters.duration,
        )?;
        self.histogram(
            &mut encoder,
            ("istio_request", "Size of request bodies."),
            &Unit::Bytes,
            |counters| &counters.request_bytes,
        )?;
        self.histogram(
            &mut encoder,
            ("istio_response", "Size of response bodies."),
            &Unit::Bytes,
            |counters| &counters.response_bytes,
        )
    }
}

impl HttpCollector {
    fn histogram(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        unit: &Unit,
        select: impl Fn(&HttpCounters) -> &Histogram,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, Some(unit), MetricType::Histogram)?;
        self.0
            .for_each(|labels, counters| select(counters).encode(&mut metric.encode_family(labels)?))
    }
}
