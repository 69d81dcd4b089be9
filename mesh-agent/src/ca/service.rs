//! The decision: who asks, for whom, with which key; then the signature.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::keyring::Keys;
use super::limits::RateLimit;
use super::{Authenticator, NodeName, NodePods, NotAuthenticated, Refusal};
use crate::identity::csr;
use crate::identity::istio::{CreateCertificateRequest, CreateCertificateResponse};
use crate::identity::pem;
use crate::mesh::identity::SpiffeId;
use crate::telemetry::CaMetrics;

/// What the service is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaServiceSettings {
    /// The only trust domain that it signs for.
    pub trust_domain: Arc<str>,
    /// Certificates live as long as asked for, but no longer than this.
    pub max_ttl: Duration,
}

/// Decides and signs. Transport is [`super::CaServer`]'s.
#[derive(Debug)]
pub struct CaService {
    settings: CaServiceSettings,
    keys: Arc<Keys>,
    authenticator: Arc<dyn Authenticator>,
    pods: Arc<dyn NodePods>,
    by_address: Mutex<RateLimit<IpAddr>>,
    by_node: Mutex<RateLimit<NodeName>>,
    metrics: CaMetrics,
}

/// Who is at the other end, as far as the transport knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) addr: IpAddr,
    /// The header `authorization`.
    pub(super) authorization: Option<&'a str>,
}

/// What was found out about a request until it was answered or refused: for the log.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) node: Option<NodeName>,
    /// As the caller wrote it, cut to [`MAX_SHOWN`] characters.
    pub(super) identity: Option<String>,
}

impl CaService {
    /// Signs with `keys` what `authenticator` and `pods` allow.
    pub fn new(
        settings: CaServiceSettings,
        keys: Arc<Keys>,
        authenticator: Arc<dyn Authenticator>,
        pods: Arc<dyn NodePods>,
        metrics: CaMetrics,
    ) -> Self {
        Self {
            settings,
            keys,
            authenticator,
            pods,
            by_address: Mutex::new(RateLimit::new(ADDRESS_BURST, ADDRESS_RATE, MAX_CALLERS)),
            by_node: Mutex::new(RateLimit::new(NODE_BURST, NODE_RATE, MAX_CALLERS)),
            metrics,
        }
    }

    /// The TLS that the service is to be served with now.
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn metrics(&self) -> &CaMetrics {
        &self.metrics
    }

    /// Knows who calls, before anything of the request's body is read.
    pub(super) async fn admit(&self, caller: Caller<'_>, now: Instant) -> Result<NodeName, Refusal> {
        let by_address = &self.by_address;
        if !locked(by_address).take(caller.addr, now) {
            return Err(Refusal::Rate);
        }
        let token = caller
            .authorization
            .and_then(|header| header.strip_prefix("Bearer "))
            .ok_or(Refusal::NoToken)?;
        let node = match self.authenticator.authenticate(token.trim()).await {
            Ok(node) => node,
            Err(NotAuthenticated::Unavailable(cause)) => return Err(Refusal::TokenCheck(cause)),
            Err(fault @ (NotAuthenticated::Unknown | NotAuthenticated::Rejected(_))) => {
                return Err(Refusal::Token(fault));
            }
        };
        if locked(&self.by_node).take(node.clone(), now) {
            Ok(node)
        } else {
            Err(Refusal::Rate)
        }
    }

    /// Signs, or says why not. `asked` is filled as far as it comes.
    pub(super) fn create(
        &self,
        node: &NodeName,
        request: &CreateCertificateRequest,
        asked: &mut Asked,
        now: SystemTime,
    ) -> Result<CreateCertificateResponse, Refusal> {
        let uri = request.impersonated_identity().ok_or(Refusal::NoIdentity)?;
        asked.identity = Some(uri.chars().take(MAX_SHOWN).collect());
        let identity: SpiffeId = uri.parse()?;
        if identity.trust_domain() != &*self.settings.trust_domain {
            return Err(Refusal::TrustDomain);
        }
        if !self.pods.runs(node, &identity)? {
            return Err(Refusal::NotOnNode);
        }
        let key = csr::public_key(&request.csr)?;
        let keyring = self.keys.load();
        let chain = keyring
            .authority()
            .sign(&identity, &key, self.ttl(request.validity_duration), now)
            .map_err(|error| Refusal::Sign(error.into()))?;
        let mut cert_chain: Vec<String> = chain.iter().map(pem::encode).collect();
        cert_chain.push(keyring.bundle().to_owned());
        Ok(CreateCertificateResponse { cert_chain })
    }

    /// As asked for, within what this CA and an agent's renewal can do; nothing asked for is the longest.
    fn ttl(&self, asked_s: i64) -> Duration {
        match u64::try_from(asked_s) {
            Err(_) | Ok(0) => self.settings.max_ttl,
            Ok(seconds) => Duration::from_secs(seconds)
                .max(MIN_TTL)
                .min(self.settings.max_ttl),
        }
    }
}

/// No token depends on another, so a lock that a panic poisoned is still good.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Below this, half a life is less than what a few retries take.
const MIN_TTL: Duration = Duration::from_secs(30);
/// Of a name that may be hostile as much is logged.
const MAX_SHOWN: usize = 256;
/// A node that starts with all its pods, and what it renews then.
const NODE_BURST: u32 = 500;
const NODE_RATE: u32 = 20;
/// Several agents behind one address.
const ADDRESS_BURST: u32 = 2_000;
const ADDRESS_RATE: u32 = 100;
/// Callers that are remembered.
const MAX_CALLERS: usize = 16_384;
