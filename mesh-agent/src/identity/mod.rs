//! WHO: certificates that prove SPIFFE ids, who issues them, and the TLS that rests on them.
//!
//! Place in the walk: `transport` and `proxy` ask the store for a local pod's TLS at each handshake, and
//! [`peer_identity`] for who is at the other end. Must not know: policies, pods, sockets.

mod embedded_ca;
pub mod hello;
mod issuer;
mod peer;
mod renewal;
mod root_file;
mod store;
mod svid;
mod tls;
mod verify;

pub use embedded_ca::{CaError, EmbeddedCa};
pub use issuer::{IssueError, Issuer};
pub use peer::{PeerIdentityError, peer_identity};
pub use store::{CertificateStatus, Certificates, RenewalCounts};
pub use svid::{InvalidSvid, Svid};
pub use tls::{Alpn, HandshakeFailure, TlsError, WorkloadTls};

/// ALPN of connections between agents that carry HTTP/2.
pub const ALPN_H2: &[u8] = b"mesh-h2";

/// ALPN of connections between agents that carry one HTTP/1.1 connection which asks to change protocol.
pub const ALPN_H1: &[u8] = b"mesh-h1";

/// ALPN of connections between agents that carry one TCP connection each.
pub const ALPN_TCP: &[u8] = b"mesh-tcp";

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod testing;
