//! One access-log line as JSON, with the keys that Istio's access log has.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;

use super::access_log::Entry;
use super::flag;
use super::labels::{PathTaken, UNKNOWN};
use crate::mesh::service::ServiceName;

/// Istio's JSON keys, then those that say who spoke with whom. What is not known is null.
#[derive(Serialize)]
struct Line<'a> {
    start_time: String,
    route_name: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    protocol: &'a str,
    response_code: Option<u16>,
    response_flags: &'a str,
    response_code_details: Option<&'a str>,
    connection_termination_details: Option<&'a str>,
    bytes_received: u64,
    bytes_sent: u64,
    duration: u128,
    upstream_service_time: Option<u128>,
    x_forwarded_for: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    authority: Option<&'a str>,
    upstream_host: Option<SocketAddr>,
    upstream_cluster: Option<String>,
    upstream_local_address: Option<SocketAddr>,
    downstream_local_address: Option<SocketAddr>,
    downstream_remote_address: Option<SocketAddr>,
    requested_server_name: Option<&'a str>,
    upstream_transport_failure_reason: Option<&'a str>,
    grpc_status: Option<u32>,
    direction: &'a str,
    reporter: &'a str,
    connection_security_policy: &'a str,
    path_taken: Option<&'a str>,
    source_workload: Option<&'a str>,
    source_namespace: Option<&'a str>,
    source_principal: Option<&'a str>,
    destination_workload: Option<&'a str>,
    destination_namespace: Option<&'a str>,
    destination_principal: Option<&'a str>,
}

/// Writes the line and its end.
pub(super) fn write(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &line(entry))?;
    out.write_all(b"\n")
}

fn line(entry: &Entry) -> Line<'_> {
    let http = entry.http.as_deref();
    let flow = &entry.flow;
    let is_http = http.is_some();
    Line {
        start_time: rfc3339(entry.wall),
        route_name: entry.route.as_deref(),
        method: http.map(|http| http.method.as_str()),
        path: http.map(|http| http.path.as_str()),
        protocol: http.map_or("TCP", |http| version_text(http.protocol)),
        response_code: entry.status,
        response_flags: flag::text(entry.flag),
        response_code_details: entry.details.as_deref().filter(|_| is_http),
        connection_termination_details: entry.details.as_deref().filter(|_| !is_http),
        bytes_received: entry.received,
        bytes_sent: entry.sent,
        duration: entry.duration.as_millis(),
        upstream_service_time: entry.responded_after.as_ref().map(Duration::as_millis),
        x_forwarded_for: http.and_then(|http| http.x_forwarded_for.as_deref()),
        user_agent: http.and_then(|http| http.user_agent.as_deref()),
        request_id: http.and_then(|http| http.request_id.as_deref()),
        authority: http.map(|http| http.authority.as_str()),
        upstream_host: entry.upstream,
        upstream_cluster: flow.service.as_ref().map(ServiceName::host),
        upstream_local_address: None,
        downstream_local_address: entry.destination,
        downstream_remote_address: entry.source,
        requested_server_name: None,
        upstream_transport_failure_reason: None,
        grpc_status: entry.grpc_status,
        direction: flow.reporter.direction(),
        reporter: flow.reporter.as_str(),
        connection_security_policy: flow.security.as_str(),
        path_taken: entry.path.map(PathTaken::as_str),
        source_workload: known(flow.source.workload()),
        source_namespace: known(flow.source.namespace()),
        source_principal: known(flow.source.principal()),
        destination_workload: known(flow.destination.workload()),
        destination_namespace: known(flow.destination.namespace()),
        destination_principal: known(flow.destination.principal()),
    }
}

fn known(text: &str) -> Option<&str> {
    (text != UNKNOWN).then_some(text)
}

fn version_text(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_11 => "HTTP/1.1",
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_3 => "HTTP/3",
        _ => UNKNOWN,
    }
}

/// Envoy's `%START_TIME%`: milliseconds, always UTC.
fn rfc3339(wall: SystemTime) -> String {
    let at = OffsetDateTime::from(wall);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond(),
    )
}
