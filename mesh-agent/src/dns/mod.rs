//! NAMES: what a pod's DNS question is about, the answer where the mesh knows it, and the way to the pod's own resolver.
//!
//! Place in the walk: before a connection; `snapshot` holds the names, `proxy` brings the questions. Must not know: how
//! queries get here, who asks, snapshots.
//!
//! A name is answered only if it belongs to a Service that is known. Everything else is the resolver's to answer, also
//! below the cluster's domain: its DNS knows kinds that the mesh does not read (`ExternalName`, UDP ports, pods).

pub mod answer;
pub mod forward;
pub mod names;
pub mod question;

use std::time::Duration;

use hickory_proto::rr::Name;

use crate::mesh::domain::ClusterDomain;

/// What is answered for: the cluster's names, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    domain: Name,
    ttl: Duration,
}

impl Zone {
    /// The names below `domain`, whose answers may be kept for `ttl`, those about headless Services for [`HEADLESS_TTL`] at
    /// most: their addresses are the pods' own.
    ///
    /// `None` for a domain that is too long for a name, which none that was parsed is.
    pub fn new(domain: &ClusterDomain, ttl: Duration) -> Option<Self> {
        let labels = domain.labels().map(str::as_bytes);
        let domain = Name::from_labels(labels).ok()?;
        Some(Self { domain, ttl })
    }

    /// The domain below which its names are, without a dot at its end.
    pub fn domain(&self) -> String {
        let labels = self.domain.iter().map(String::from_utf8_lossy);
        labels.collect::<Vec<_>>().join(".")
    }
}

/// How long an answer about a headless Service may be kept at most.
pub const HEADLESS_TTL: Duration = Duration::from_secs(5);
