//! Chooses what a request of this node's applications goes to: a route's backend, and then an endpoint of it.
//!
//! Place in the walk: part of both decisions on the client's side. Must not know: policies, how the endpoint is
//! reached.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Request, Response};

use crate::balance::{Breakers, Limit, Pick};
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::policy::external::Authorizer;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::workload::Workload;
use crate::proxy::Ends;
use crate::proxy::affinity::Affinity;
use crate::proxy::http::decide::{Course, Target};
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::routed::{self, Applied};
use crate::proxy::refusal::Refusal;
use crate::proxy::session::{self, Keeping, Kept};
use crate::snapshot::{PickFacts, Snapshot, Upstream};

/// An endpoint that was chosen, and what was known when it was.
pub(super) struct Choice {
    pub(super) addr: SocketAddr,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) protocol: AppProtocol,
    pub(super) service: Option<ServiceName>,
    /// The TLS that it is spoken to in where it is outside of the mesh.
    pub(super) tls: Option<Arc<BackendTls>>,
    /// How it is told who is behind a connection, where it is outside of the mesh.
    pub(super) proxied: Option<ProxyProtocol>,
    pub(super) pick: Option<Pick>,
    pub(super) breakers: Option<Breakers>,
    pub(super) cookie: Option<HeaderValue>,
    /// A header that begins the client's session.
    pub(super) session: Option<(HeaderName, HeaderValue)>,
}

/// Endpoints that a request was sent to.
#[derive(Debug, Default)]
pub(super) struct Tried {
    pub(super) addrs: Vec<SocketAddr>,
    /// Whether another one is somewhere else, if it can be.
    pub(super) leaves_localities: bool,
    /// Whether one of them is worse than none.
    pub(super) must_differ: bool,
}

/// What the routes of the dialled Service say.
pub(super) enum Routed {
    /// The request goes there, as a rule says or by itself.
    To(Target, Option<Applied>),
    /// It is answered, when this one has let it in, if there is one.
    Answer(Response<Bytes>, Option<Arc<Authorizer>>),
}

/// An endpoint of what the request goes to, which is one of the `tried` afterwards.
pub(super) fn endpoint(
    course: &Course,
    ends: Ends,
    request: &Request<impl Sized>,
    tried: Option<&mut Tried>,
) -> Result<Choice, Refusal> {
    match &course.target {
        Target::Upstream(upstream, keeping) => pick(upstream, keeping.as_ref(), ends, request, tried),
        Target::Workload {
            workload,
            protocol,
            service,
        } => Ok(Choice {
            addr: ends.original,
            workload: Some(Arc::clone(workload)),
            protocol: *protocol,
            service: service.clone(),
            tls: None,
            proxied: None,
            pick: None,
            breakers: None,
            cookie: None,
            session: None,
        }),
    }
}

fn pick(
    upstream: &Upstream,
    keeping: Option<&Keeping>,
    ends: Ends,
    request: &Request<impl Sized>,
    tried: Option<&mut Tried>,
) -> Result<Choice, Refusal> {
    let before = tried.as_deref().map_or(&[][..], |tried| tried.addrs.as_slice());
    let (mut facts, cookie) = pick_facts(upstream, ends, request, before);
    facts.leaves_localities = tried.as_ref().is_some_and(|tried| tried.leaves_localities);
    facts.kept = keeping.and_then(Keeping::endpoint);
    upstream.used_by(ends.client.ip(), facts.now);
    let picked = upstream.pick(&facts, &mut rand::rng())?;
    let addr = picked.endpoint.addr;
    if let Some(tried) = tried {
        if tried.must_differ && tried.addrs.contains(&addr) {
            return Err(Refusal::NoEndpoint);
        }
        tried.addrs.push(addr);
    }
    Ok(Choice {
        addr,
        workload: picked.endpoint.workload.clone(),
        protocol: upstream.spoken(),
        service: Some(upstream.service.clone()),
        tls: upstream.tls().cloned(),
        proxied: upstream.proxied(),
        pick: Some(picked.pick),
        breakers: Some(upstream.breakers().clone()),
        cookie,
        session: keeping.and_then(|keeping| keeping.begin(upstream, addr)),
    })
}

/// What an endpoint of `upstream` is picked by, and the cookie that the client is given for it.
pub(super) fn pick_facts<'t>(
    upstream: &Upstream,
    ends: Ends,
    request: &Request<impl Sized>,
    tried: &'t [SocketAddr],
) -> (PickFacts<'t>, Option<HeaderValue>) {
    let Affinity { hash, cookie } = upstream
        .hash_key()
        .map(|key| Affinity::of_request(key, request, ends.client.ip()))
        .unwrap_or_default();
    let facts = PickFacts {
        dialled: ends.original.ip(),
        hash,
        of: Limit::Requests,
        tried,
        leaves_localities: false,
        kept: None,
        now: Instant::now(),
    };
    (facts, cookie)
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
        let keeping = Keeping::of_dialled(&dialled, (snapshot, client), request.headers());
        return Ok(Routed::To(Target::Upstream(dialled, keeping), None));
    };
    let facts = routed::facts_of(request, authority, dialled.port, client);
    let decided = routes.decide(&facts).ok_or(Refusal::NoRoute)?;
    ledger.route(&decided.rule.route);
    if let Some(answer) = routed::preflight_answer(&decided, request) {
        return Ok(Routed::Answer(answer, None));
    }
    if let Some(answer) = routed::own_answer(&decided, request, authority, dialled.port)? {
        let gate = routed::gate_of(&decided.rule.filters).cloned();
        return Ok(Routed::Answer(answer, gate));
    }
    if let Some(Kept {
        backend,
        upstream,
        endpoint,
    }) = session::kept_by(&decided, (snapshot, client), request.headers())
    {
        let keeping = Keeping::of_rule(&decided, &backend, &upstream);
        let keeping = keeping.map(|keeping| keeping.at(endpoint));
        let applied = Applied::new(decided, backend, request.headers());
        return Ok(Routed::To(Target::Upstream(upstream, keeping), Some(applied)));
    }
    let backend = decided.rule.backends().choose(&mut rand::rng());
    let backend = Arc::clone(backend.ok_or(Refusal::InvalidBackend)?);
    let upstream = snapshot.backend(client, &backend);
    let upstream = Arc::clone(upstream.ok_or(Refusal::InvalidBackend)?);
    let keeping = Keeping::of_rule(&decided, &backend, &upstream);
    Ok(Routed::To(
        Target::Upstream(upstream, keeping),
        Some(Applied::new(decided, backend, request.headers())),
    ))
}
