//! Carries a question to an authorizer or a rate limit service and its answer back, in the name of the pod that is protected.
//!
//! Place in the walk: a small walk of its own, inside that of a request. Must not know: what is asked, why, or what the
//! answer means.
//!
//! An authorizer in the mesh is reached as the pod's own application would reach it: with mTLS and the pod's identity on
//! another node, judged by the authorizer's policies on this one. Any other is dialled in plaintext from the pod's
//! address. Connections are those of the pod's pool.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited};

use crate::balance::{Limit, Pick};
use crate::external::{CheckError, MAX_ANSWER};
use crate::identity::Alpn;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::policy::external::{Authorizer, AuthorizerTarget, CheckProtocol, OnError};
use crate::mesh::traffic::Reuse;
use crate::proxy::backend;
use crate::proxy::hop::Hop;
use crate::proxy::http::headers::{ORIGINAL_VERSION, prepare};
use crate::proxy::outbound::same_node;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::{Refusal, Unapproved};
use crate::proxy::{Ends, Mesh};
use crate::snapshot::PickFacts;
use crate::transport::http::Body;
use crate::transport::pool::{Leased, PoolKey, SendError, Wire};
use crate::transport::proxy_header::ProxyHeader;

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum AskError {
    /// It has no endpoint, or is not known.
    #[error("the service has no endpoint")]
    NoEndpoint,
    /// It must not, or cannot, be reached in the name of the protected pod.
    #[error("the service cannot be asked by this pod")]
    Refused(#[source] Refusal),
    /// No connection, or it broke.
    #[error("the service cannot be reached")]
    Send(#[from] SendError),
    /// Too slow, or too many wait for it.
    #[error("no decision in time")]
    TimedOut,
    /// Its answer broke off, or is larger than is read.
    #[error("the answer is not read to its end")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The question cannot be put, or the answer is none.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// A service that is asked about requests.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Called<'a> {
    /// Where it is.
    pub(super) target: &'a AuthorizerTarget,
    /// Its port.
    pub(super) port: u16,
    /// What it speaks.
    pub(super) spoken: Wire,
}

impl<'a> From<&'a Authorizer> for Called<'a> {
    fn from(authorizer: &'a Authorizer) -> Self {
        Self {
            target: &authorizer.target,
            port: authorizer.port,
            spoken: match authorizer.protocol {
                CheckProtocol::Grpc(_) => Wire::H2,
                CheckProtocol::Http(_) => Wire::H1,
            },
        }
    }
}

/// Sends `check` to a service and collects the answer, with its trailers.
///
/// Waits as long as the caller does. Cancel-safe: the check is given up, its connection stays or is closed.
pub(in crate::proxy) async fn send(
    mesh: &Arc<Mesh>,
    pod: &Arc<ServedPod>,
    called: Called<'_>,
    check: Request<Bytes>,
) -> Result<(Response<Bytes>, Option<HeaderMap>), AskError> {
    let way = Way::find(mesh, pod, called)?;
    let answer = Box::pin(way.carry(mesh, pod, check)).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map_err(AskError::Answer)?;
    let trailers = body.trailers().cloned();
    Ok((Response::from_parts(head, body.to_bytes()), trailers))
}

/// What becomes of that about which nobody decided. Logged here, since with an authorizer that fails open nobody else
/// hears of it.
pub(in crate::proxy) fn undecided(
    pod: &ServedPod,
    authorizer: &Authorizer,
    error: &AskError,
) -> Result<(), Refusal> {
    tracing::debug!(
        %error,
        cause = ?error,
        pod = %pod.pod.workload.pod_name,
        authorizer = %authorizer.target.host(),
        "an authorizer gave no decision"
    );
    match authorizer.on_error {
        OnError::Allow => Ok(()),
        OnError::Refuse(status) => Err(Refusal::External(Unapproved::Unanswered(status))),
    }
}

/// The way to one endpoint of an authorizer.
struct Way {
    hop: Hop,
    addr: SocketAddr,
    /// The pod's own end, of no port in particular.
    own: SocketAddr,
    /// What the authorizer speaks.
    spoken: Wire,
    /// The TLS that it speaks it in, where this agent begins it.
    tls: Option<Arc<BackendTls>>,
    /// What it is told of the pod before anything else.
    proxied: Option<ProxyHeader>,
    /// Counts the check as active at its endpoint.
    _pick: Option<Pick>,
}

impl Way {
    fn find(mesh: &Mesh, pod: &ServedPod, called: Called<'_>) -> Result<Self, AskError> {
        let snapshot = mesh.snapshots.load();
        let like = pod.pod.workload.addrs.first().ok_or(AskError::NoEndpoint)?;
        let (mut outside, mut proxied) = (None, None);
        let (addr, workload, pick) = match called.target {
            AuthorizerTarget::Service(service) => {
                let facts = PickFacts {
                    dialled: *like,
                    hash: None,
                    of: Limit::Requests,
                    tried: &[],
                    leaves_localities: false,
                    kept: None,
                    now: Instant::now(),
                };
                let upstream = snapshot.upstream(&pod.pod.workload, service, called.port);
                outside = upstream.and_then(|upstream| upstream.tls());
                proxied = upstream.and_then(|upstream| upstream.proxied());
                let picked = upstream
                    .and_then(|upstream| upstream.pick(&facts, &mut rand::rng()).ok())
                    .ok_or(AskError::NoEndpoint)?;
                (
                    picked.endpoint.addr,
                    picked.endpoint.workload.clone(),
                    Some(picked.pick),
                )
            }
            AuthorizerTarget::Addr(ip) => {
                let addr = SocketAddr::new(*ip, called.port);
                (addr, snapshot.workload_at(*ip).cloned(), None)
            }
        };
        let own = pod.pod.addr_like(addr.ip()).unwrap_or(*like);
        let hop = Hop::decide(mesh, &snapshot, workload.as_ref(), addr.port()).map_err(AskError::Refused)?;
        let ends = Ends {
            client: SocketAddr::new(own, 0),
            original: addr,
        };
        Ok(Self {
            proxied: backend::introduction(&hop, proxied, ends),
            tls: backend::tls_behind(&hop, addr.port(), &snapshot, outside),
            hop,
            addr,
            own: ends.client,
            spoken: called.spoken,
            _pick: pick,
        })
    }

    async fn carry(
        &self,
        mesh: &Arc<Mesh>,
        pod: &Arc<ServedPod>,
        check: Request<Bytes>,
    ) -> Result<Response<Leased>, AskError> {
        let (pool, client, wire) = match &self.hop {
            Hop::SameNode(other) => (&other.pool, Some(self.own.ip()), self.spoken),
            Hop::OtherNode { .. } => (&pod.pool, None, Wire::H2),
            Hop::Plain { .. } => (&pod.pool, None, self.spoken),
        };
        let mut check =
            check.map(|body| -> Body { Full::new(body).map_err(|never| match never {}).boxed_unsync() });
        let authority = check.uri().authority().cloned();
        let authority = authority.ok_or(AskError::Refused(Refusal::Malformed))?;
        self.knock(mesh, pod, &check, &authority)?;
        prepare(&mut check, wire, &authority).map_err(AskError::Refused)?;
        if self.spoken == Wire::H1 && wire == Wire::H2 {
            let version = HeaderValue::from_static("1");
            check.headers_mut().insert(ORIGINAL_VERSION, version);
        }
        let key = PoolKey {
            endpoint: self.hop.uid(),
            addr: self.addr,
            client,
            wire,
            tls: self.tls.as_deref().map(BackendTls::number),
            proxied: self.proxied.clone(),
            reuse: Reuse::default(),
        };
        let connect = || {
            let connecting = self.hop.connect(mesh, pod, self.own, self.addr, Alpn::H2);
            let connecting = backend::introduced(mesh, self.proxied.as_ref(), connecting);
            backend::over(mesh, pod, self.tls.as_ref(), backend::alpn(wire), connecting)
        };
        Ok(pool.send(&pod.tasks, &key, check, &connect).await?)
    }

    /// The policies of an authorizer on this node are asked here, as nobody else does. One that must itself be asked
    /// about is refused: that might go round for ever.
    fn knock(
        &self,
        mesh: &Mesh,
        pod: &ServedPod,
        check: &Request<Body>,
        authority: &Authority,
    ) -> Result<(), AskError> {
        let ends = Ends {
            client: self.own,
            original: self.addr,
        };
        let Some(visit) = same_node(&self.hop, pod, ends, self.addr) else {
            return Ok(());
        };
        let snapshot = mesh.snapshots.load();
        let arrival = visit.arrival();
        let judged = arrival.judge_request(&snapshot, check, authority, None);
        judged
            .inspect_err(|refusal| arrival.refused(mesh, refusal))
            .map_err(AskError::Refused)
    }
}
