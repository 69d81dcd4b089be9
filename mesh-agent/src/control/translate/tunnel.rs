//! `tunnel` of a `trafficPolicy`.
//!
//! Place in the walk: part of [`super::traffic_policy`]. Must not know: hosts of rules, Services.

use std::net::Ipv6Addr;

use http::uri::Authority;
use serde::Deserialize;

use super::traffic_policy::Reader;
use crate::mesh::facts::Rejection;
use crate::mesh::tunnel::TunnelTarget;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Written {
    protocol: Option<String>,
    target_host: Option<String>,
    target_port: Option<u16>,
}

/// Reads it. Errors: what Istio would not accept, or what would send bytes to a forward proxy that it does not expect.
pub(super) fn read(reader: &Reader<'_>, written: &Written) -> Result<TunnelTarget, Rejection> {
    match written.protocol.as_deref() {
        None | Some("" | "CONNECT") => {}
        Some("POST") => return Err(reader.wrong("tunnel.protocol", "POST is not supported; use CONNECT")),
        Some(_) => return Err(reader.wrong("tunnel.protocol", "use CONNECT")),
    }
    let port = written.target_port.filter(|port| *port > 0);
    let port = port.ok_or_else(|| reader.wrong("tunnel.targetPort", "is needed: 1 to 65535"))?;
    let host = written.target_host.as_deref().unwrap_or_default();
    let host = match host.parse::<Ipv6Addr>() {
        Ok(addr) => format!("[{addr}]"),
        Err(_) => host.to_owned(),
    };
    // Of an authority's forms only that with a host and no user, which is what a CONNECT names.
    let target = format!("{host}:{port}").parse::<Authority>().ok();
    target
        .filter(|target| !host.is_empty() && target.host() == host && target.port_u16() == Some(port))
        .ok_or_else(|| reader.wrong("tunnel.targetHost", "is needed: a host name or an address"))
}
