//! `connectionPool` and `retryBudget` of a `trafficPolicy`.
//!
//! Place in the walk: part of [`super::traffic_policy`]. Must not know: connections, counts.
//!
//! As in Istio a number of 0 is none written: without a limit.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

use super::traffic_policy::{Reader, whole};
use crate::mesh::facts::Rejection;
use crate::mesh::traffic::{Limits, RetryShare, Reuse};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Written {
    tcp: Option<Tcp>,
    http: Option<Http>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Tcp {
    max_connections: Option<u32>,
    connect_timeout: Option<String>,
    idle_timeout: Option<String>,
    max_connection_duration: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Http {
    http1_max_pending_requests: Option<u32>,
    http2_max_requests: Option<u32>,
    max_requests_per_connection: Option<u32>,
    max_retries: Option<u32>,
    idle_timeout: Option<String>,
    h2_upgrade_policy: Option<UpgradePolicy>,
    max_concurrent_streams: Option<u32>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
enum UpgradePolicy {
    #[serde(rename = "UPGRADE")]
    Always,
    #[serde(rename = "DO_NOT_UPGRADE", alias = "DEFAULT")]
    AsClient,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WrittenBudget {
    percent: Option<f64>,
    min_retry_concurrency: Option<u32>,
}

pub(super) fn read(reader: &Reader<'_>, written: &Written) -> Result<Limits, Rejection> {
    let (no_tcp, no_http) = (Tcp::default(), Http::default());
    let tcp = written.tcp.as_ref().unwrap_or(&no_tcp);
    let http = written.http.as_ref().unwrap_or(&no_http);
    let duration = |field: &str, text: &Option<String>| {
        let field = format!("connectionPool.{field}");
        match reader.duration(&field, text.as_deref())? {
            Some(Duration::ZERO) => Err(reader.wrong(&field, "must be longer than nothing")),
            read => Ok(read),
        }
    };
    let some = |number: Option<u32>| number.filter(|number| *number > 0);
    Ok(Limits {
        connections: some(tcp.max_connections),
        pending: some(http.http1_max_pending_requests),
        requests: some(http.http2_max_requests),
        retries: some(http.max_retries),
        retry_share: None,
        connect_timeout: duration("tcp.connectTimeout", &tcp.connect_timeout)?,
        opaque_idle: duration("tcp.idleTimeout", &tcp.idle_timeout)?,
        opaque_duration: duration("tcp.maxConnectionDuration", &tcp.max_connection_duration)?,
        reuse: Reuse {
            idle: duration("http.idleTimeout", &http.idle_timeout)?,
            requests: http.max_requests_per_connection.and_then(NonZeroU32::new),
            streams: http.max_concurrent_streams.and_then(NonZeroU32::new),
        },
        upgrades: http.h2_upgrade_policy == Some(UpgradePolicy::Always),
    })
}

pub(super) fn read_budget(reader: &Reader<'_>, written: &WrittenBudget) -> Result<RetryShare, Rejection> {
    let percent = written.percent.unwrap_or(DEFAULT_PERCENT);
    let percent_milli = whole(percent * 1000.0, 100_000)
        .ok_or_else(|| reader.wrong("retryBudget.percent", "use 0 to 100"))?;
    Ok(RetryShare {
        percent_milli,
        least: written.min_retry_concurrency.unwrap_or(DEFAULT_LEAST),
    })
}

/// Istio's, as Envoy's.
const DEFAULT_PERCENT: f64 = 20.0;
const DEFAULT_LEAST: u32 = 3;
