//! Where a connection goes that is no HTTP: what it begins with, where a route asks for that, then one endpoint.
//!
//! Place in the walk: the outbound walk asks before a hop is decided. Must not know: how bytes move.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::balance::{Limit, Pick};
use crate::detect::{Look, Prefixed, look};
use crate::identity::hello;
use crate::lifecycle::LaneStream;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::mesh::route::Opening;
use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::traffic::Limits;
use crate::mesh::tunnel::TunnelTarget;
use crate::mesh::workload::Workload;
use crate::proxy::outbound::stopped;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::{Ends, Mesh, affinity};
use crate::route::{CompiledStreamRule, Dialled, Need, StreamDecision, StreamFacts, StreamTable};
use crate::snapshot::{Destination, PickFacts, Snapshot, Upstream};

/// One endpoint that was chosen for a connection.
pub(super) struct Choice {
    pub(super) addr: SocketAddr,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) service: Option<ServiceName>,
    /// The TLS that it is spoken to in where it is outside of the mesh.
    pub(super) tls: Option<Arc<BackendTls>>,
    /// How it is told who is behind a connection, where it is outside of the mesh.
    pub(super) proxied: Option<ProxyProtocol>,
    /// Where it is asked to connect to.
    pub(super) tunnel: Option<TunnelTarget>,
    /// Counts the connection as active at its endpoint, and is told what became of it.
    pub(super) pick: Option<Pick>,
    /// `NAMESPACE/NAME` of the route that sent it there.
    pub(super) route: Option<String>,
    /// How long it may take and last.
    pub(super) limits: Limits,
}

/// What is known of the destination's protocol before a byte is read.
pub(super) fn protocol_of(snapshot: &Snapshot, client: &Workload, original: SocketAddr) -> AppProtocol {
    match snapshot.destination(client, original) {
        Destination::Service(upstream) => {
            let table = snapshot.stream_routes(&client.namespace, &upstream);
            if table.is_some_and(StreamTable::is_of_all_bytes) {
                AppProtocol::Tcp
            } else {
                upstream.protocol
            }
        }
        Destination::Workload { protocol, .. } => protocol,
        // Outside the mesh nothing is decided by HTTP: bytes pass at once.
        Destination::NoSuchPort(_) | Destination::Unknown => AppProtocol::Tcp,
    }
}

/// What the routes of a connection ask of its first bytes.
pub(super) fn need(mesh: &Mesh, source: &ServedPod, original: SocketAddr) -> Need {
    let snapshot = mesh.snapshots.load();
    let client = source.as_known(&snapshot);
    let Destination::Service(upstream) = snapshot.destination(client, original) else {
        return Need::Nothing;
    };
    snapshot
        .stream_routes(&client.namespace, &upstream)
        .map_or(Need::Nothing, |table| table.need(&dialled(client, &upstream)))
}

/// What a connection begins with; nothing is consumed. A table that changes meanwhile decides by what was asked before.
///
/// Fails when the agent stops and the client goes on to say nothing.
pub(super) async fn opening(
    mesh: &Mesh,
    source: &ServedPod,
    need: Need,
    stream: Prefixed<LaneStream>,
) -> io::Result<(Opening, Prefixed<LaneStream>)> {
    let limit = match need {
        Need::Nothing | Need::Glance => mesh.settings.detect_timeout,
        // Who speaks TLS speaks first, whenever it likes.
        Need::Handshake => mesh.settings.idle_timeout,
    };
    let judge = |first: &[u8]| hello::opening(first).map_or(Look::NeedMore, Look::Is);
    let stop = source.tasks.stop();
    let (opening, stream) = tokio::select! {
        looked = look(stream, limit, judge) => looked?,
        () = stopped(mesh, &stop) => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    Ok((opening.unwrap_or_default(), stream.flatten()))
}

fn dialled<'a>(client: &'a Workload, upstream: &Upstream) -> Dialled<'a> {
    Dialled {
        authority: "",
        port: upstream.port,
        namespace: &client.namespace,
        labels: Some(&client.labels),
    }
}

/// Chooses an endpoint; a refusal comes with the Service that was dialled.
pub(super) fn choose(
    snapshot: &Snapshot,
    client: &Workload,
    ends: Ends,
    opening: &Opening,
) -> Result<Choice, (Refusal, Option<ServiceName>)> {
    let original = ends.original;
    match snapshot.destination(client, original) {
        Destination::Service(dialled) => {
            let service = Some(dialled.service.clone());
            let (upstream, route) =
                routed(snapshot, client, dialled, original, opening).map_err(|refusal| (refusal, service))?;
            let mut choice =
                pick(&upstream, ends).map_err(|refusal| (refusal, Some(upstream.service.clone())))?;
            choice.route = route;
            Ok(choice)
        }
        Destination::Workload {
            workload, service, ..
        } => Ok(Choice {
            addr: original,
            workload: Some(workload),
            service,
            tls: None,
            proxied: None,
            tunnel: None,
            pick: None,
            route: None,
            limits: Limits::default(),
        }),
        Destination::NoSuchPort(service) => Err((Refusal::NoSuchPort, Some(service))),
        Destination::Unknown => Ok(Choice {
            addr: original,
            workload: None,
            service: None,
            tls: None,
            proxied: None,
            tunnel: None,
            pick: None,
            route: None,
            limits: Limits::default(),
        }),
    }
}

/// Applies the routes of connections that are attached to the dialled Service, if any.
fn routed(
    snapshot: &Snapshot,
    client: &Workload,
    upstream: Arc<Upstream>,
    original: SocketAddr,
    opening: &Opening,
) -> Result<(Arc<Upstream>, Option<String>), Refusal> {
    let Some(rule) = ruled(snapshot, client, &upstream, original, opening)? else {
        return Ok((upstream, None));
    };
    let backend = rule.choose(&mut rand::rng()).ok_or(Refusal::InvalidBackend)?;
    let upstream = snapshot.backend(client, backend).ok_or(Refusal::InvalidBackend)?;
    Ok((Arc::clone(upstream), Some(rule.route.clone())))
}

/// The rule for a connection that dialled `upstream`; `None` where no route is about it.
pub(super) fn ruled(
    snapshot: &Snapshot,
    client: &Workload,
    upstream: &Upstream,
    original: SocketAddr,
    opening: &Opening,
) -> Result<Option<Arc<CompiledStreamRule>>, Refusal> {
    let Some(table) = snapshot.stream_routes(&client.namespace, upstream) else {
        return Ok(None);
    };
    let facts = StreamFacts {
        addr: original.ip(),
        dialled: dialled(client, upstream),
        opening,
    };
    match table.decide(&facts) {
        StreamDecision::Rule(rule) => Ok(Some(rule)),
        StreamDecision::Unconcerned => Ok(None),
        StreamDecision::NoRoute => Err(Refusal::NoRoute),
    }
}

fn pick(upstream: &Upstream, ends: Ends) -> Result<Choice, Refusal> {
    let facts = PickFacts {
        dialled: ends.original.ip(),
        hash: upstream
            .hash_key()
            .and_then(|key| affinity::of_connection(key, ends.client.ip())),
        of: Limit::Connections,
        tried: &[],
        leaves_localities: false,
        kept: None,
        now: Instant::now(),
    };
    upstream.used_by(ends.client.ip(), facts.now);
    let picked = upstream.pick(&facts, &mut rand::rng())?;
    Ok(Choice {
        addr: picked.endpoint.addr,
        workload: picked.endpoint.workload.clone(),
        service: Some(upstream.service.clone()),
        tls: upstream.tls().cloned(),
        proxied: upstream.proxied(),
        tunnel: upstream.tunnel().cloned(),
        pick: Some(picked.pick),
        route: None,
        limits: *upstream.breakers().limits(),
    })
}
