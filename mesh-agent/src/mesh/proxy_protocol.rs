//! `proxyProtocol` of a `trafficPolicy`: endpoints are told who is behind a connection before its first byte.
//!
//! Place in the walk: translation writes it, a snapshot settles it for each port. Must not know: addresses, bytes.

/// The version of the header that a connection begins with.
///
/// Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
