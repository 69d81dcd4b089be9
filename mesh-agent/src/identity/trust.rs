//! Whom a handshake trusts: the roots and trust domains of this mesh, and what was revoked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::federation::Federation;
use super::peer::{self, Leaf, PeerIdentityError};
use super::revocation::Revoked;
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
    /// Other meshes whose workloads may call, each verified against its own roots only.
    pub federation: Federation,
    /// Those that the issuer names besides; of a mesh that is in both, this bundle does not count.
    pub pushed: Federation,
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
    federation: Federation,
    pushed: Federation,
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
            revoked: rules.revoked.lists().iter().cloned().map(Into::into).collect(),
            federation: rules.federation.clone(),
            pushed: rules.pushed.clone(),
            provider,
        })
    }

    /// A chain to a root of the leaf's own trust domain, valid at `now` give or take [`CLOCK_SKEW`], not revoked, and a
    /// leaf that is a workload of this mesh or of one that it is federated with.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Leaf, PeerIdentityError> {
        let seconds = Duration::from_secs(now.as_secs());
        let at = |since_epoch| UnixTime::since_unix_epoch(since_epoch);
        // Only claimed until the chain holds: it decides which roots may vouch for it.
        let claimed = peer::leaf(end_entity);
        let foreign = claimed
            .as_ref()
            .ok()
            .and_then(|leaf| self.foreign(&leaf.identity));
        let anchors = foreign.unwrap_or(&self.anchors);
        let chain = |now| self.chain(end_entity, intermediates, role, (anchors, now));
        match chain(now) {
            Err(PeerIdentityError::Expired) => chain(at(seconds.saturating_sub(CLOCK_SKEW)))?,
            Err(PeerIdentityError::NotValidYet) => chain(at(seconds + CLOCK_SKEW))?,
            verified => verified?,
        }
        let leaf = claimed?;
        if foreign.is_some() || self.is_ours(leaf.identity.trust_domain()) {
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

    /// The roots of a trust domain that is not ours, if there are any.
    fn foreign(&self, claimed: &SpiffeId) -> Option<&[TrustAnchor<'static>]> {
        let trust_domain = claimed.trust_domain();
        let bundle = self.federation.anchors_of(trust_domain);
        let bundle = bundle.or_else(|| self.pushed.anchors_of(trust_domain));
        bundle.filter(|_| !self.is_ours(trust_domain))
    }

    fn is_ours(&self, trust_domain: &str) -> bool {
        *self.domain == *trust_domain || self.aliases.iter().any(|alias| **alias == *trust_domain)
    }

    fn chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        (anchors, now): (&[TrustAnchor<'static>], UnixTime),
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
                anchors,
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
            .field("federation", &self.federation)
            .field("pushed", &self.pushed)
            .finish_non_exhaustive()
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    super::pem::parsed(certificate)
        .is_some_and(|parsed| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// How far the clocks of two nodes may be apart before a certificate's dates refuse it.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(10);
