//! Whom a handshake trusts: the roots and trust domains of this mesh, and what was revoked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::peer::{self, Leaf, PeerIdentityError};
use crate::mesh::identity::SpiffeId;

/// The root certificates that peers' chains must end in.
pub type Roots = Arc<[CertificateDer<'static>]>;

/// What is trusted beside the issuer's roots; another value replaces it while connections live.
#[derive(Debug, Clone, Default)]
pub struct TrustRules {
    /// Trust domains whose workloads count as this mesh's own, as while a mesh is renamed. Same roots.
    pub aliases: Vec<Arc<str>>,
    /// Certificates that were called back before their time.
    pub revoked: Revoked,
}

/// Certificate revocation lists, DER inside.
#[derive(Clone, Default)]
pub struct Revoked(Arc<[OwnedCertRevocationList]>);

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

        let mut lists = Vec::new();
        for (index, list) in CertificateRevocationListDer::pem_slice_iter(text).enumerate() {
            let list = list.map_err(|error| RevokedError::Pem(error.to_string()))?;
            let list = OwnedCertRevocationList::from_der(&list).map_err(|error| RevokedError::List {
                index: index + 1,
                reason: error.to_string(),
            })?;
            lists.push(list);
        }
        Ok(Self(lists.into()))
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is revoked for want of a list.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revoked({} lists)", self.0.len())
    }
}

/// Which role the holder of a certificate plays in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It dialled.
    Client,
    /// It was dialled.
    Server,
}

/// Roots, names and revocations, ready to verify with.
pub(super) struct Trust {
    domain: Arc<str>,
    aliases: Vec<Arc<str>>,
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// Errors: a root cannot be used, or there is none.
    pub(super) fn new(
        domain: &str,
        roots: &[CertificateDer<'static>],
        rules: &TrustRules,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, webpki::Error> {
        if roots.is_empty() {
            return Err(webpki::Error::UnknownIssuer);
        }
        let anchors = roots
            .iter()
            .map(|root| anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()));
        Ok(Self {
            domain: domain.into(),
            aliases: rules.aliases.clone(),
            anchors: anchors.collect::<Result<_, _>>()?,
            revoked: rules.revoked.0.iter().cloned().map(Into::into).collect(),
            provider,
        })
    }

    /// A chain to a root, valid at `now` give or take [`CLOCK_SKEW`], not revoked, and a leaf that is a workload of
    /// this mesh.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Leaf, PeerIdentityError> {
        let seconds = Duration::from_secs(now.as_secs());
        let at = |since_epoch| UnixTime::since_unix_epoch(since_epoch);
        match self.chain(end_entity, intermediates, role, now) {
            Err(PeerIdentityError::Expired) => {
                self.chain(
                    end_entity,
                    intermediates,
                    role,
                    at(seconds.saturating_sub(CLOCK_SKEW)),
                )?;
            }
            Err(PeerIdentityError::NotValidYet) => {
                self.chain(end_entity, intermediates, role, at(seconds + CLOCK_SKEW))?;
            }
            verified => verified?,
        }
        let leaf = peer::leaf(end_entity)?;
        if self.is_ours(leaf.identity.trust_domain()) {
            Ok(leaf)
        } else {
            Err(PeerIdentityError::TrustDomain {
                found: leaf.identity,
                ours: self.domain.as_ref().to_owned(),
            })
        }
    }

    /// Whether `found` may stand for `expected`: the same, or the same under another name of this mesh.
    pub(super) fn is_same(&self, found: &SpiffeId, expected: &SpiffeId) -> bool {
        found.namespace() == expected.namespace()
            && found.service_account() == expected.service_account()
            && (found.trust_domain() == expected.trust_domain()
                || self.is_ours(found.trust_domain()) && self.is_ours(expected.trust_domain()))
    }

    pub(super) fn provider(&self) -> &CryptoProvider {
        &self.provider
    }

    fn is_ours(&self, trust_domain: &str) -> bool {
        *self.domain == *trust_domain || self.aliases.iter().any(|alias| **alias == *trust_domain)
    }

    fn chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), PeerIdentityError> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(PeerIdentityError::of_chain)?;
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let lists: Vec<_> = self.revoked.iter().collect();
        // A certificate of an issuer without list counts as good, and an old list still revokes what it names.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        certificate
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &self.anchors,
                intermediates,
                now,
                usage,
                revocation,
                None,
            )
            .map(drop)
            .map_err(PeerIdentityError::of_chain)
            .map_err(|error| {
                if error == PeerIdentityError::UnknownIssuer && is_self_signed(end_entity) {
                    PeerIdentityError::SelfSigned
                } else {
                    error
                }
            })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("domain", &self.domain)
            .field("aliases", &self.aliases)
            .field("anchors", &self.anchors.len())
            .field("revoked", &self.revoked.len())
            .finish_non_exhaustive()
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    super::pem::parsed(certificate)
        .is_some_and(|parsed| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// How far the clocks of two nodes may be apart before a certificate's dates refuse it.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(10);
