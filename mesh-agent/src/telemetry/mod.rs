//! What the mesh saw: metrics, access log and the agent's own log.
//!
//! Place in the walk: the last room. A walk opens one record for a request or connection, tells it what happens,
//! and drops it: the drop counts and logs it exactly once, however the walk ended.
//! Must not know: how anything is decided or carried; any runtime or HTTP server.

mod access_log;
mod balance;
mod ca;
mod crowding;
mod direct;
mod encode;
mod enrolment;
mod flag;
mod handshakes;
mod histogram;
mod http;
mod labels;
mod legs;
pub mod log;
mod log_line;
mod mesh;
mod observed;
pub mod plain;
mod policy;
mod process;
mod resilience;
mod series;
mod tcp;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use self::access_log::AccessLog;
pub use self::balance::{BalanceMetrics, UpstreamCounts};
pub use self::ca::CaMetrics;
pub use self::direct::{DirectEnd, DirectMetrics, DirectRecord, DirectStart};
pub use self::enrolment::{CniResult, EnrolmentMetrics};
pub use self::flag::ResponseFlag;
pub use self::http::{HttpRecord, HttpStart};
pub use self::labels::{FlowLabels, PathTaken, PeerLabels, Reporter, Security};
pub use self::legs::LegBytes;
pub use self::mesh::{Direction, DnsOutcome, HandshakeSide, MeshMetrics};
pub use self::observed::CertificateFacts;
pub use self::policy::{CheckResult, QuotaResult};
pub use self::resilience::{
    FallbackOutcome, HealthFinding, HedgeOutcome, MirrorOutcome, ResilienceMetrics, RetryOutcome,
};
pub use self::tcp::{TcpRecord, TcpStart};

use self::http::{HttpCollector, HttpCounters, HttpLabels};
use self::observed::Observed;
use self::process::ProcessCollector;
use self::series::SeriesTable;
use self::tcp::{TcpCollector, TcpCounters, TcpLabels};
use crate::lifecycle::Tasks;

/// Every metric family, and the access log. Clones are the same.
#[derive(Debug, Clone)]
pub struct Telemetry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    http: Arc<SeriesTable<HttpLabels, HttpCounters>>,
    tcp: Arc<SeriesTable<TcpLabels, TcpCounters>>,
    mesh: MeshMetrics,
    balance: BalanceMetrics,
    resilience: ResilienceMetrics,
    direct: DirectMetrics,
    enrolment: EnrolmentMetrics,
    observed: Arc<Observed>,
    access_log: AccessLog,
}

impl Telemetry {
    /// With no access log.
    pub fn new() -> Self {
        Self::with_access_log(AccessLog::off())
    }

    /// Every record writes one line to `access_log` when it is dropped.
    pub fn with_access_log(access_log: AccessLog) -> Self {
        let now = Instant::now();
        let http = Arc::new(SeriesTable::new(CAPACITY, now));
        let tcp = Arc::new(SeriesTable::new(CAPACITY, now));
        let observed = Arc::<Observed>::default();
        let mut registry = Registry::default();
        let mesh = MeshMetrics::register(&mut registry);
        let balance = BalanceMetrics::register(&mut registry);
        let resilience = ResilienceMetrics::register(&mut registry);
        let direct = DirectMetrics::register(&mut registry);
        let enrolment = EnrolmentMetrics::register(&mut registry);
        let own = OwnCollector {
            http: Arc::clone(&http),
            tcp: Arc::clone(&tcp),
            log: access_log.clone(),
        };
        let collectors: [Box<dyn Collector>; 5] = [
            Box::new(HttpCollector(Arc::clone(&http))),
            Box::new(TcpCollector(Arc::clone(&tcp))),
            Box::new(Arc::clone(&observed)),
            Box::new(own),
            Box::new(ProcessCollector),
        ];
        for collector in collectors {
            registry.register_collector(collector);
        }
        Self {
            shared: Arc::new(Shared {
                registry,
                http,
                tcp,
                mesh,
                balance,
                resilience,
                direct,
                enrolment,
                observed,
                access_log,
            }),
        }
    }

    /// Everything as OpenMetrics text, version 1.0.0.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.shared.registry) {
            // A string takes all that is written, so a collector itself gave up.
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }

    /// Opens the record of a request. Its `reporter` says whose side this is.
    pub fn http(&self, flow: FlowLabels, start: impl Into<Arc<HttpStart>>) -> HttpRecord {
        HttpRecord::open(self.clone(), flow, start.into())
    }

    /// Opens the record of an opaque connection, and counts it as opened.
    pub fn tcp(&self, flow: FlowLabels, start: TcpStart) -> TcpRecord {
        TcpRecord::open(self.clone(), flow, start)
    }

    /// Opens the record of a connection that goes past the agent; `is_new` says whether it is to be counted as opened.
    pub fn direct_flow(&self, flow: FlowLabels, start: DirectStart, is_new: bool) -> DirectRecord {
        DirectRecord::open(self.clone(), flow, start, is_new)
    }

    /// The families of all direct connections together.
    pub fn direct(&self) -> &DirectMetrics {
        &self.shared.direct
    }

    /// How pods came to be enrolled.
    pub fn enrolment(&self) -> &EnrolmentMetrics {
        &self.shared.enrolment
    }

    /// What outlier detection and circuit breakers did.
    pub fn balance(&self) -> &BalanceMetrics {
        &self.shared.balance
    }

    /// What was tried again, and what was copied.
    pub fn resilience(&self) -> &ResilienceMetrics {
        &self.shared.resilience
    }

    /// The agent's own families.
    pub fn mesh(&self) -> &MeshMetrics {
        &self.shared.mesh
    }

    /// Reads `mesh_certificate_*` from the store on each scrape.
    pub fn observe_certificates(&self, read: impl Fn() -> CertificateFacts + Send + Sync + 'static) {
        self.shared.observed.certificates(Box::new(read));
    }

    /// Reads `mesh_config_age_seconds` from the source on each scrape.
    pub fn observe_config_age(&self, read: impl Fn() -> Duration + Send + Sync + 'static) {
        self.shared.observed.config_age(Box::new(read));
    }

    /// Says how long this agent took to take its node over; `mesh_handover_seconds` is there from then on.
    pub fn took_over(&self, took: Duration) {
        self.shared.observed.handover(took);
    }

    /// Reads `mesh_task*` from the tasks on each scrape.
    pub fn observe_tasks(&self, tasks: Tasks) {
        self.shared.observed.tasks(tasks);
    }

    /// Where lines go; to flush it at the end.
    pub fn access_log(&self) -> &AccessLog {
        &self.shared.access_log
    }

    fn http_series(&self) -> &SeriesTable<HttpLabels, HttpCounters> {
        &self.shared.http
    }

    fn tcp_series(&self) -> &SeriesTable<TcpLabels, TcpCounters> {
        &self.shared.tcp
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

/// What telemetry itself lost.
#[derive(Debug)]
struct OwnCollector {
    http: Arc<SeriesTable<HttpLabels, HttpCounters>>,
    tcp: Arc<SeriesTable<TcpLabels, TcpCounters>>,
    log: AccessLog,
}

impl Collector for OwnCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let overflowed = self.http.overflowed() + self.tcp.overflowed();
        for (name, help, value) in [
            (
                "mesh_access_log_written",
                "Access-log lines that were written.",
                self.log.written(),
            ),
            (
                "mesh_access_log_dropped",
                "Access-log lines that found no room.",
                self.log.dropped(),
            ),
            (
                "mesh_metric_overflow",
                "Label sets that found no room of their own.",
                overflowed,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }
}

/// Label sets of each of HTTP and TCP; OpenTelemetry's limit.
const CAPACITY: usize = 2_000;

#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod tests;
