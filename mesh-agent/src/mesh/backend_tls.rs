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
    /// `Kind NAMESPACE/NAME` of the policy that says it.
    pub declared: Option<Arc<str>>,
    /// Where its certificate must end.
    pub roots: TrustedRoots,
    /// The name that it is asked for (SNI); `None` is the host of the Service.
    pub name: Option<Arc<str>>,
    /// Any of these must be in its certificate; none means that `name` must.
    pub names: Vec<PeerName>,
    /// `caCrl`: lists that must cover its whole chain.
    pub revoked: Option<NodeFile>,
    /// `MUTUAL`: what is proved to it.
    pub shown: Option<ClientFiles>,
}

/// Who vouches for an application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TrustedRoots {
    /// Whoever the node's own bundle of roots names.
    System,
    /// Certificates in PEM.
    Pem(Arc<str>),
    /// `caCertificates`: certificates in PEM in a file of the node.
    File(NodeFile),
    /// `insecureSkipVerify`: whoever answers is believed, by whatever name.
    Anybody,
    /// Nobody: what was written cannot be honoured. Nothing is sent, least of all in plaintext.
    Nobody,
}

/// A file of the node, below the part of its directory that belongs to a namespace.
///
/// Rules of one namespace never name the files of another: whoever may write a rule could otherwise speak in the name of
/// others, to a server of its own choice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeFile {
    namespace: Arc<str>,
    path: Arc<str>,
}

impl NodeFile {
    /// `path` is absolute, as in a sidecar, and without `..`: `/etc/certs/client.pem`. `None` for any other.
    pub fn new(namespace: &str, path: &str) -> Option<Self> {
        let parts = path.strip_prefix('/')?;
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        let is_below = parts.split('/').all(is_plain) && path.len() <= MAX_PATH;
        (is_below && is_plain(namespace) && !namespace.contains('/')).then(|| Self {
            namespace: namespace.into(),
            path: parts.into(),
        })
    }

    /// The namespace of the rule, which is the name of a directory.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The path below that directory.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientFiles {
    /// `clientCertificate`: in PEM, the leaf first.
    pub certificate: NodeFile,
    /// `privateKey`: in PEM.
    pub key: NodeFile,
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
            declared: None,
            roots: TrustedRoots::Nobody,
            name: None,
            names: Vec::new(),
            revoked: None,
            shown: None,
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
    /// `SIMPLE`, `MUTUAL`, and what cannot be honoured.
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

/// As the kernel's (`PATH_MAX`), less the directory.
const MAX_PATH: usize = 3072;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_from_the_root_and_never_leaves_its_namespace() {
        let file = NodeFile::new("shop", "/etc/certs/client.pem").unwrap();
        assert_eq!((file.namespace(), file.path()), ("shop", "etc/certs/client.pem"));
        for (namespace, path) in [
            ("shop", ""),
            ("shop", "/"),
            ("shop", "etc/client.pem"),
            ("shop", "/../pay/client.pem"),
            ("shop", "/etc/../../pay/client.pem"),
            ("shop", "/etc//client.pem"),
            ("shop", "/etc/./client.pem"),
            ("shop", "/etc/client.pem/"),
            ("shop", "/etc/\0"),
            ("..", "/client.pem"),
            ("shop/..", "/client.pem"),
            ("", "/client.pem"),
        ] {
            assert_eq!(NodeFile::new(namespace, path), None, "{namespace} {path:?}");
        }
        assert_eq!(NodeFile::new("shop", &format!("/{}", "a".repeat(MAX_PATH))), None);
    }
}
