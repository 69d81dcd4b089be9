//! What the tests of this room share: a CA in memory-like places, and issuers that misbehave on demand.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::CertificateParams;
use tempfile::TempDir;

use super::authority::leaf_params;
use super::{EmbeddedCa, Issuer, Roots, Svid, TrustRules, WorkloadTls};
use crate::mesh::identity::SpiffeId;

pub(super) const HOUR: Duration = Duration::from_hours(1);

/// An embedded CA and the directory that it lives in.
pub(super) struct TestCa {
    pub(super) ca: Arc<EmbeddedCa>,
    _dir: TempDir,
}

impl TestCa {
    pub(super) fn new() -> Self {
        Self::of("cluster.local")
    }

    pub(super) fn of(trust_domain: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(dir.path(), trust_domain, 24 * HOUR).unwrap();
        Self {
            ca: Arc::new(ca),
            _dir: dir,
        }
    }

    pub(super) fn roots(&self) -> Roots {
        self.ca.roots().borrow().clone()
    }

    /// A proper certificate, ready for handshakes.
    pub(super) fn tls(&self, identity: &SpiffeId) -> WorkloadTls {
        let now = SystemTime::now();
        self.tls_valid(identity, now - HOUR, now + HOUR)
    }

    pub(super) fn tls_valid(
        &self,
        id: &SpiffeId,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> WorkloadTls {
        let params = leaf_params(id, not_before, not_after).unwrap();
        WorkloadTls::new(&self.svid(&params), &self.roots(), &TrustRules::default()).unwrap()
    }

    pub(super) fn svid(&self, params: &CertificateParams) -> Svid {
        let (certificate, key) = self.ca.sign_unchecked(params).unwrap();
        Svid::new(vec![certificate], key).unwrap()
    }
}

/// A workload of namespace `shop` in the usual trust domain.
pub(super) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account).unwrap()
}
