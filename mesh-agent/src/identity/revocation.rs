//! Certificates that were called back before their time, and the connections that rest on them.
//!
//! Place in the walk: handshakes ask the lists while they verify a chain; a connection that lives waits for a list that
//! names a certificate of either of its ends. Must not know: files, connections.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio::sync::watch;
use webpki::OwnedCertRevocationList;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{TrustRules, pem};

/// Certificate revocation lists.
#[derive(Clone, Default)]
pub struct Revoked(Arc<Lists>);

#[derive(Default)]
struct Lists {
    lists: Vec<OwnedCertRevocationList>,
    named: HashSet<CertificateName>,
}

/// A certificate by the DER of its issuer's name and then its serial number: the first says itself where it ends.
pub(super) type CertificateName = Box<[u8]>;

/// Why a file holds no revocation lists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokedError {
    /// It is not PEM, or a block in it is cut off.
    #[error("not pem: {0}")]
    Pem(String),
    /// A list cannot be read.
    #[error("list {index} cannot be used: {reason}")]
    List {
        /// Which, from one.
        index: usize,
        /// What is wrong in it.
        reason: String,
    },
}

impl Revoked {
    /// All lists of a PEM text; a text without any revokes nothing.
    pub fn from_pem(text: &[u8]) -> Result<Self, RevokedError> {
        use rustls::pki_types::pem::PemObject;

        let mut all = Lists::default();
        for (index, list) in CertificateRevocationListDer::pem_slice_iter(text).enumerate() {
            let list = list.map_err(|error| RevokedError::Pem(error.to_string()))?;
            let unusable = |reason: String| RevokedError::List {
                index: index + 1,
                reason,
            };
            all.named
                .extend(names(&list).map_err(|error| unusable(error.to_string()))?);
            let list =
                OwnedCertRevocationList::from_der(&list).map_err(|error| unusable(error.to_string()))?;
            all.lists.push(list);
        }
        Ok(Self(all.into()))
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.0.lists.len()
    }

    /// Whether nothing is revoked for want of a list.
    pub fn is_empty(&self) -> bool {
        self.0.lists.is_empty()
    }

    pub(super) fn lists(&self) -> &[OwnedCertRevocationList] {
        &self.0.lists
    }

    /// Whether a list names one of these certificates. Who issued the list is not verified here: a handshake does that,
    /// and whoever may write the lists may end connections.
    fn name(&self, shown: &Shown) -> bool {
        let all = shown.theirs.iter().chain(shown.ours.iter());
        all.into_iter().any(|name| self.0.named.contains(name))
    }
}

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revoked({} lists)", self.len())
    }
}

/// What both ends of a connection showed when it began, as far as a list can name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    theirs: Arc<[CertificateName]>,
    ours: Arc<[CertificateName]>,
}

impl Shown {
    pub(super) fn new(theirs: Option<&[CertificateDer<'_>]>, ours: &Arc<[CertificateName]>) -> Self {
        Self {
            theirs: names_of(theirs.unwrap_or_default()),
            ours: Arc::clone(ours),
        }
    }
}

/// The names of a chain; what cannot be read in it has proved nothing.
pub(super) fn names_of(chain: &[CertificateDer<'_>]) -> Arc<[CertificateName]> {
    let readable = chain.iter().filter_map(|one| pem::parsed(one));
    readable
        .map(|one| name(one.issuer().as_raw(), one.raw_serial()))
        .collect()
}

/// What the lists say from now on. Clones are independent.
#[derive(Debug, Clone)]
pub struct Revocations(watch::Receiver<TrustRules>);

impl Revocations {
    pub(super) fn new(rules: watch::Receiver<TrustRules>) -> Self {
        Self(rules)
    }

    /// Returns when a list names a certificate of `shown`, be it one that is known already. Cancel-safe.
    pub async fn revoked(mut self, shown: Shown) {
        loop {
            if self.0.borrow_and_update().revoked.name(&shown) {
                return;
            }
            // Nobody can bring another list: this one stays.
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

fn names(
    list: &CertificateRevocationListDer<'_>,
) -> Result<HashSet<CertificateName>, x509_parser::error::X509Error> {
    let (_, list) = CertificateRevocationList::from_der(list).map_err(|error| match error {
        x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => error,
        x509_parser::nom::Err::Incomplete(_) => x509_parser::error::X509Error::Generic,
    })?;
    let issuer = list.issuer().as_raw();
    let revoked = list.iter_revoked_certificates();
    Ok(revoked.map(|one| name(issuer, one.raw_serial())).collect())
}

fn name(issuer: &[u8], serial: &[u8]) -> CertificateName {
    [issuer, serial].concat().into()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use rcgen::SerialNumber;

    use super::super::handshake_tests::spoilt;
    use super::super::testing::{TestCa, revoking};
    use super::*;

    /// A certificate of `ca` with that serial number.
    fn certificate(ca: &TestCa, serial: u64) -> CertificateDer<'static> {
        let params = spoilt(|params| params.serial_number = Some(SerialNumber::from(serial)));
        ca.svid(&params).chain()[0].clone()
    }

    #[test]
    fn a_connection_is_revoked_with_a_certificate_of_either_end_and_no_other() {
        let ca = TestCa::new();
        let (one, two) = (certificate(&ca, 41), certificate(&ca, 42));
        let revoked = revoking(&ca.ca, SerialNumber::from(42)).revoked;
        for (theirs, ours, expected) in [(&one, &one, false), (&two, &one, true), (&one, &two, true)] {
            let ours = names_of(std::slice::from_ref(ours));
            let shown = Shown::new(Some(std::slice::from_ref(theirs)), &ours);
            assert_eq!(revoked.name(&shown), expected);
        }
    }

    #[test]
    fn the_same_number_of_another_issuer_is_another_certificate() {
        let serial = [7];
        assert_ne!(name(b"\x30\x01a", &serial), name(b"\x30\x01b", &serial));
    }

    #[tokio::test]
    async fn a_list_that_comes_later_is_heard_and_one_about_others_is_not() {
        let ca = TestCa::new();
        let (rules, heard) = watch::channel(TrustRules::default());
        let shown = Shown::new(Some(&[certificate(&ca, 7)]), &Arc::from([]));
        let mut revoked = std::pin::pin!(Revocations::new(heard).revoked(shown));
        assert_eq!(revoked.as_mut().now_or_never(), None);
        rules.send_replace(revoking(&ca.ca, SerialNumber::from(8)));
        assert_eq!(revoked.as_mut().now_or_never(), None);
        rules.send_replace(revoking(&ca.ca, SerialNumber::from(7)));
        assert_eq!(revoked.as_mut().now_or_never(), Some(()));
    }
}
