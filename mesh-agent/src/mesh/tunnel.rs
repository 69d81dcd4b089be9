//! `tunnel` of a `trafficPolicy`: endpoints are forward proxies, which are asked for the connection that is wanted.
//!
//! Place in the walk: translation writes it, a snapshot settles it. Must not know: how it is asked for.

use http::uri::Authority;

/// Where a forward proxy is asked to connect to, by HTTP's CONNECT (RFC 9110, section 9.3.6): host and port.
///
/// Source: Istio's `TrafficPolicy.TunnelSettings`, `targetHost` and `targetPort`.
pub type TunnelTarget = Authority;
