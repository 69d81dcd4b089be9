//! Names of workloads that a certificate can prove: SPIFFE ids of the form that Istio uses.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A SPIFFE id `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
///
/// Source: SPIFFE-ID standard section 2 for the URI, Istio's `pkg/spiffe` for the path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<Parts>);

/// What an id is joined of.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Parts {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl SpiffeId {
    /// Joins the three parts; each must be non-empty and hold only characters that a SPIFFE id may hold.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, InvalidSpiffeId> {
        if !valid_trust_domain(trust_domain) {
            return Err(InvalidSpiffeId::TrustDomain);
        }
        if !valid_segment(namespace) || !valid_segment(service_account) {
            return Err(InvalidSpiffeId::Path);
        }
        Ok(Self(Arc::new(Parts {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })))
    }

    /// The same id, in the memory of an equal one: of `shared`'s answer nothing but the place may differ.
    #[must_use]
    pub fn sharing(self, shared: impl FnOnce(Arc<Parts>) -> Arc<Parts>) -> Self {
        Self(shared(self.0))
    }

    /// The trust domain, for instance `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.0.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.0.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.0.trust_domain, self.0.namespace, self.0.service_account
        )
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let rest = uri.strip_prefix("spiffe://").ok_or(InvalidSpiffeId::Scheme)?;
        let mut parts = rest.split('/');
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(trust_domain, namespace, account)
            }
            _ => Err(InvalidSpiffeId::Path),
        }
    }
}

/// Why a string is not the SPIFFE id of a workload of this mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// It does not begin with `spiffe://`.
    #[error("not a spiffe:// uri")]
    Scheme,
    /// The trust domain is empty or holds a character that is not allowed.
    #[error("trust domain is empty or holds a character other than a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    /// The path is not `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[error("path is not /ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
    Path,
}

/// SPIFFE-ID 2.1: lower-case letters, digits, dots, dashes, underscores; at most 255 bytes.
fn valid_trust_domain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

/// SPIFFE-ID 2.2: letters, digits, dots, dashes, underscores; `.` and `..` are not segments.
fn valid_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.len() <= 253
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsed_id_prints_as_it_was_read() {
        let uri = "spiffe://cluster.local/ns/shop/sa/web";
        let id: SpiffeId = uri.parse().unwrap();
        assert_eq!(id.to_string(), uri);
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "shop", "web")
        );
    }

    #[test]
    fn refuses_what_is_not_a_workload_id() {
        for (uri, why) in [
            ("https://cluster.local/ns/a/sa/b", InvalidSpiffeId::Scheme),
            ("spiffe:///ns/a/sa/b", InvalidSpiffeId::TrustDomain),
            ("spiffe://Cluster.Local/ns/a/sa/b", InvalidSpiffeId::TrustDomain),
            ("spiffe://td/ns/a/sa/", InvalidSpiffeId::Path),
            ("spiffe://td/ns/a/sa/b/c", InvalidSpiffeId::Path),
            ("spiffe://td/ns/../sa/b", InvalidSpiffeId::Path),
            ("spiffe://td/sa/a/ns/b", InvalidSpiffeId::Path),
            ("spiffe://td/ns/a/sa/b?x=1", InvalidSpiffeId::Path),
        ] {
            assert_eq!(uri.parse::<SpiffeId>(), Err(why), "{uri}");
        }
    }
}
