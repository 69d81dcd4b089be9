//! Chooses what a request of this node's applications goes to: a route's backend, and an endpoint of it.
//!
//! Place in the walk: the first part of the decision, on the client's side. Must not know: policies, how the endpoint is
//! reached.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Request, Response};

use crate::balance::{Breakers, Limit, Pick};
use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::workload::Workload;
use crate::proxy::Ends;
use crate::proxy::affinity::Affinity;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::routed::{self, Applied};
use crate::proxy::refusal::Refusal;
use crate::route::{CompiledAction, Decided};
use crate::snapshot::{Destination, PickFacts, Snapshot, Upstream};

/// An endpoint that was chosen, and what was known when it was.
pub(super) struct Choice {
    pub(super) addr: SocketAddr,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) protocol: AppProtocol,
    pub(super) service: Option<ServiceName>,
    pub(super) pick: Option<Pick>,
    pub(super) breakers: Option<Breakers>,
    pub(super) cookie: Option<HeaderValue>,
}

/// What the routes of the dialled Service say.
pub(super) enum Routed {
    /// The request goes to one of these endpoints.
    To(Arc<Upstream>, Option<Applied>),
    /// It is answered.
    Answer(Response<Bytes>),
}

/// An endpoint of `upstream`.
pub(super) fn pick(
    upstream: &Upstream,
    ends: Ends,
    request: &Request<impl Sized>,
) -> Result<Choice, Refusal> {
    let Affinity { hash, cookie } = upstream
        .hash_key()
        .map(|key| Affinity::of_request(key, request, ends.client.ip()))
        .unwrap_or_default();
    let facts = PickFacts {
        dialled: ends.original.ip(),
        hash,
        of: Limit::Requests,
        tried: &[],
        now: Instant::now(),
    };
    let picked = upstream.pick(&facts, &mut rand::rng())?;
    Ok(Choice {
        addr: picked.endpoint.addr,
        workload: picked.endpoint.workload.clone(),
        protocol: upstream.protocol,
        service: Some(upstream.service.clone()),
        pick: Some(picked.pick),
        breakers: Some(upstream.breakers().clone()),
        cookie,
    })
}

/// What no route acts on.
pub(super) fn unrouted(destination: Destination, ends: Ends, ledger: &Ledger) -> Result<Choice, Refusal> {
    match destination {
        Destination::Workload {
            workload,
            protocol,
            service,
        } => Ok(Choice {
            addr: ends.original,
            workload: Some(workload),
            protocol,
            service,
            pick: None,
            breakers: None,
            cookie: None,
        }),
        Destination::NoSuchPort(service) => {
            ledger.service(&service);
            Err(Refusal::NoSuchPort)
        }
        // The Service vanished while the connection lived on.
        Destination::Unknown | Destination::Service(_) => Err(Refusal::NoEndpoint),
    }
}

/// Applies the routes that are attached to the dialled Service, if any.
pub(super) fn routed(
    snapshot: &Snapshot,
    client: &Workload,
    dialled: Arc<Upstream>,
    request: &Request<impl Sized>,
    authority: &Authority,
    ledger: &Ledger,
) -> Result<Routed, Refusal> {
    let Some(routes) = snapshot.routes(&client.namespace, &dialled) else {
        return Ok(Routed::To(dialled, None));
    };
    let facts = routed::facts_of(request, authority, dialled.port, client);
    let decided = routes.decide(&facts).ok_or(Refusal::NoRoute)?;
    let Decided { rule, prefix } = &decided;
    ledger.route(&rule.route);
    if let Some(response) = rule
        .cors
        .as_ref()
        .and_then(|cors| routed::preflight(cors, request))
    {
        return Ok(Routed::Answer(response));
    }
    match &rule.action {
        CompiledAction::Redirect(redirect) => routed::redirect(
            redirect,
            request.uri(),
            authority,
            dialled.port,
            prefix.as_deref(),
        )
        .map(Routed::Answer),
        CompiledAction::Respond(response) => Ok(Routed::Answer(routed::respond(response))),
        CompiledAction::Forward(shares) => {
            let backend = shares.choose(&mut rand::rng()).ok_or(Refusal::InvalidBackend)?;
            let upstream = snapshot.backend(backend);
            let upstream = Arc::clone(upstream.ok_or(Refusal::InvalidBackend)?);
            let backend = Arc::clone(backend);
            Ok(Routed::To(
                upstream,
                Some(Applied::new(decided, backend, request.headers())),
            ))
        }
    }
}
