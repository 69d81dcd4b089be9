//! Active health checks of a Service in declared form: what its endpoints are asked, how often, and what counts.
//!
//! Place in the walk: translation writes it, a snapshot hands it to the endpoints. Must not know: who asks, and by which
//! way. The meaning is Envoy's (`health_check.proto`); the defaults are in [`HealthCheck::new`].

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Annotation `mesh-agent.dev/health-check` of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// The pod's port that is asked; `None` for each endpoint's own.
    pub port: Option<u16>,
    /// From the end of a check to the next one, while pods of the node use the Service.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The same as [`Self::interval`] once no pod of the node has used the Service for so long.
    pub no_traffic_interval: Duration,
    /// So many checks in a row without an answer make an endpoint unhealthy; one wrong answer does at once.
    pub unhealthy_threshold: u32,
    /// So many good answers in a row make it healthy again.
    pub healthy_threshold: u32,
    /// With fewer good endpoints than this percentage all are used; 0 never does that.
    pub panic_percent: u32,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// `GET` of a path.
    Http(HttpQuestion),
    /// Whether it takes a connection.
    Tcp,
    /// `grpc.health.v1.Health/Check` of this service; empty for the server as a whole.
    Grpc(Arc<str>),
}

/// `http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpQuestion {
    /// Path and query.
    pub path: Arc<str>,
    /// The authority that is named; `None` for the Service's own host.
    pub host: Option<Arc<str>>,
    /// Good answers.
    pub expected: Vec<RangeInclusive<u16>>,
    /// Answers that are no better than none, and no worse.
    pub retriable: Vec<RangeInclusive<u16>>,
}

impl HealthCheck {
    /// A check with all defaults.
    pub fn new(question: Question) -> Self {
        Self {
            question,
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            no_traffic_interval: Duration::from_mins(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            panic_percent: 50,
        }
    }
}
