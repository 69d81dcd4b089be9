//! WHO: certificates that prove SPIFFE ids, who issues them, and the TLS that rests on them.
//!
//! Place in the walk: `transport` and `proxy` ask the store for a local pod's TLS at each handshake, and
//! [`peer_identity`] for who is at the other end. Must not know: policies, pods, sockets.

mod authority;
mod backend_failures;
mod backend_tls;
mod backend_verify;
mod ca_client;
pub mod csr;
mod embedded_ca;
mod failure;
mod federation;
mod files;
pub mod hello;
mod issue_failure;
mod issuer;
pub mod istio;
mod news;
mod node_files;
mod peer;
pub mod pem;
mod renewal;
mod revocation;
mod root_file;
mod secret;
mod server_tls;
mod source;
pub mod spire;
mod store;
mod svid;
mod tls;
mod trust;
mod verify;
mod web_tls;

pub use authority::{Authority, AuthorityError, ServerIdentity};
pub use backend_failures::FailingTls;
pub use backend_tls::{BackendAlpn, BackendClient, BackendClients, BackendTlsError, holds_a_root};
pub use ca_client::{CaAddr, CaClient, CaClientSettings};
pub use embedded_ca::{CaError, EmbeddedCa, new_root, read_or_make_root};
pub use failure::HandshakeFailure;
pub use federation::{Federation, FederationError};
pub use files::FileIssuer;
pub use issue_failure::IssueFailure;
pub use issuer::{IssueError, Issuer, Subscription};
pub use node_files::{NodeFileError, NodeFiles};
pub use peer::{PeerIdentityError, peer_identity, peer_not_after};
pub use revocation::{Revocations, Revoked, RevokedError, Shown};
pub use server_tls::{ServerTlsError, prove, server_config};
pub use store::{CertificateStatus, Certificates, RenewalCounts};
pub use svid::{InvalidSvid, Svid};
pub use tls::{Alpn, TlsError, WorkloadTls};
pub use trust::{Roots, TrustRules};
pub use web_tls::{WebTlsError, web_client};

/// ALPN of connections between agents that carry HTTP/2.
pub const ALPN_H2: &[u8] = b"mesh-h2";

/// ALPN of connections between agents that carry one HTTP/1.1 connection which asks to change protocol.
pub const ALPN_H1: &[u8] = b"mesh-h1";

/// ALPN of connections between agents that carry one TCP connection each.
pub const ALPN_TCP: &[u8] = b"mesh-tcp";

/// An error and its causes in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod bad_certificate_tests;
#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
pub(crate) mod testing;
