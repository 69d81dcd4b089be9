//! TLS that the agent speaks with applications which serve nothing else: Gateway API's `BackendTLSPolicy`, and `tls` of Istio's
//! DestinationRule.
//!
//! Place in the walk: translation writes it, a snapshot settles it for each port. Must not know: certificates, sockets.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::mesh::facts::ObjectMeta;
use crate::mesh::service::ServiceName;

/// How an application is spoken to, and what it must prove.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// Where its certificate must end.
    pub roots: TrustedRoots,
    /// The name that it is asked for (SNI); `None` is the host of the Service.
    pub name: Option<Arc<str>>,
    /// Any of these must be in its certificate; none means that `name` must.
    pub names: Vec<PeerName>,
}

/// Who vouches for an application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TrustedRoots {
    /// Whoever the node's own bundle of roots names.
    System,
    /// Certificates in PEM.
    Pem(Arc<str>),
    /// Nobody: what was written cannot be honoured. Nothing is sent, least of all in plaintext.
    Nobody,
}

/// A subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerName {
    /// A DNS name.
    Host(Arc<str>),
    /// A URI, of a SPIFFE id for instance.
    Uri(Arc<str>),
}

impl BackendTls {
    /// Of what cannot be honoured.
    pub const fn impossible() -> Self {
        Self {
            roots: TrustedRoots::Nobody,
            name: None,
            names: Vec::new(),
        }
    }

    /// The same for an application behind `service`, its name given.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Self {
        let name = self.name.clone().unwrap_or_else(|| service.host().into());
        Self {
            name: Some(name),
            ..self.clone()
        }
    }

    /// Tells it from others where connections are kept: of equal content, of equal number.
    pub fn number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// `tls` of a `trafficPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrittenTls {
    /// `DISABLE`, `ISTIO_MUTUAL`: what the mesh does by itself.
    Mesh,
    /// `SIMPLE`, and what cannot be honoured.
    Begun(Arc<BackendTls>),
}

/// A `BackendTLSPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTlsPolicy {
    /// Where it was declared.
    pub meta: Arc<ObjectMeta>,
    /// Which Services it is about.
    pub targets: Vec<BackendTlsTarget>,
    /// What it says.
    pub tls: Arc<BackendTls>,
}

/// One of `targetRefs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTlsTarget {
    /// Path within the object, for reports.
    pub field: Arc<str>,
    /// The Service.
    pub service: ServiceName,
    /// `sectionName`: only its port of this name.
    pub section: Option<Arc<str>>,
}
