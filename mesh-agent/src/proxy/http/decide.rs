//! Decides where a request goes, before anything is done: facts in, one plain value out.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Request, Response, Version};
use tokio::time::Instant;

use crate::balance::Pick;
use crate::mesh::identity::SpiffeId;
use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::workload::Workload;
use crate::proxy::arrival::Visit;
use crate::proxy::hop::Hop;
use crate::proxy::http::headers::{ORIGINAL_VERSION, authority};
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::routed::{self, Applied};
use crate::proxy::http::{Connection, Side};
use crate::proxy::inbound::{destination_flow, visit};
use crate::proxy::outbound::{same_node, source_flow};
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::{Ends, Mesh};
use crate::route::{CompiledAction, Decided};
use crate::snapshot::{Destination, Snapshot, Upstream};
use crate::telemetry::{FlowLabels, PathTaken, PeerLabels, Reporter, Security};
use crate::transport::pool::Wire;

/// Where a request goes and how.
#[derive(Debug)]
pub(super) struct Plan {
    /// The way to the endpoint.
    pub(super) hop: Hop,
    /// The endpoint.
    pub(super) addr: SocketAddr,
    /// The pod in whose name the connection is made.
    pub(super) via: Arc<ServedPod>,
    /// The client that the application is shown.
    pub(super) client: SocketAddr,
    /// What the application at the end is spoken to in.
    pub(super) wire: Wire,
    /// The authority that the client named.
    pub(super) authority: Authority,
    /// The route that the request took, if one did.
    pub(super) route: Option<Applied>,
    /// When the whole transaction must be over.
    pub(super) deadline: Option<Instant>,
    /// When the response must have begun.
    pub(super) attempt_deadline: Option<Instant>,
    /// Counts the request as active at its endpoint.
    pub(super) pick: Option<Pick>,
    /// The arrival at a pod of this node, for as long as the request is under way.
    pub(super) visit: Option<Visit>,
}

impl Plan {
    /// When the response must have begun.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.attempt_deadline).min()
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Decision {
    /// It is sent on.
    Forward(Box<Plan>),
    /// A route answers it.
    Answer(Response<Bytes>),
}

/// Takes the decision for one request, which is changed as its route says; what is learned on the way is noted in
/// `ledger`.
pub(super) fn decide(
    mesh: &Mesh,
    side: &Side,
    request: &mut Request<impl Sized>,
    ledger: &Ledger,
) -> Result<Decision, Refusal> {
    match side {
        Side::Outbound { source, ends } => outbound(mesh, source, *ends, request, ledger),
        Side::Inbound { pod, ends, peer } => {
            if peer.is_none() {
                ledger.path_taken(PathTaken::Plain);
            }
            let plan = inbound(mesh, pod, *ends, peer.as_ref(), request)?;
            Ok(Decision::Forward(Box::new(plan)))
        }
    }
}

/// The labels that a request is opened with; the outbound walk learns the destination later.
pub(super) fn first_flow(connection: &Connection) -> FlowLabels {
    match &connection.side {
        Side::Outbound { source, .. } => source_flow(source, None, None, Security::Unknown),
        Side::Inbound { pod, ends, peer } => destination_flow(&connection.mesh, pod, *ends, peer.as_ref()),
    }
}

/// An endpoint that was chosen, and what was known when it was.
struct Choice {
    addr: SocketAddr,
    workload: Option<Arc<Workload>>,
    protocol: AppProtocol,
    service: Option<ServiceName>,
    pick: Option<Pick>,
}

/// What the routes of the dialled Service say.
enum Routed {
    /// The request goes to one of these endpoints.
    To(Arc<Upstream>, Option<Applied>),
    /// It is answered.
    Answer(Response<Bytes>),
}

fn outbound(
    mesh: &Mesh,
    source: &Arc<ServedPod>,
    ends: Ends,
    request: &mut Request<impl Sized>,
    ledger: &Ledger,
) -> Result<Decision, Refusal> {
    let snapshot = mesh.snapshots.load();
    let mut authority = authority_or(request, ends.original)?;
    let began = Instant::now();
    let (choice, route) = match snapshot.destination(ends.original) {
        Destination::Service(dialled) => {
            ledger.service(&dialled.service);
            match routed(
                &snapshot,
                &source.pod.workload,
                dialled,
                request,
                &authority,
                ledger,
            )? {
                Routed::Answer(response) => return Ok(Decision::Answer(response)),
                Routed::To(upstream, route) => {
                    ledger.service(&upstream.service);
                    (pick(&upstream, ends)?, route)
                }
            }
        }
        other @ (Destination::Workload { .. } | Destination::NoSuchPort(_) | Destination::Unknown) => {
            (unrouted(other, ends, ledger)?, None)
        }
    };
    if let Some(route) = &route {
        route.edit_request(request, &mut authority)?;
    }
    if let Some(service) = &choice.service {
        ledger.service(service);
    }
    let hop = Hop::decide(mesh, choice.workload.as_ref(), choice.addr.port())?;
    if matches!(hop, Hop::SameNode(_)) {
        let flow = source_flow(
            source,
            choice.workload.as_deref(),
            choice.service.clone(),
            hop.security(),
        );
        ledger.also(FlowLabels {
            reporter: Reporter::Destination,
            ..flow
        });
    }
    let destination = Arc::new(
        choice
            .workload
            .as_deref()
            .map_or_else(PeerLabels::unknown, PeerLabels::of),
    );
    for record in ledger.records() {
        record.destination(Arc::clone(&destination));
        record.security(hop.security());
        record.upstream(choice.addr);
    }
    ledger.path_taken(hop.path());
    let visit = same_node(&hop, source, ends, choice.addr);
    if let Some(visit) = &visit {
        visit
            .arrival()
            .admit_request(mesh, &snapshot, request, &authority)?;
    }
    let limits = route.as_ref().map(Applied::limits).unwrap_or_default();
    Ok(Decision::Forward(Box::new(Plan {
        hop,
        addr: choice.addr,
        via: Arc::clone(source),
        client: ends.client,
        wire: wire_for(choice.protocol, request.version()),
        authority,
        route,
        deadline: limits.request.map(|limit| began + limit),
        attempt_deadline: limits.attempt.map(|limit| began + limit),
        pick: choice.pick,
        visit,
    })))
}

/// An endpoint of `upstream`.
fn pick(upstream: &Upstream, ends: Ends) -> Result<Choice, Refusal> {
    let picked = upstream
        .pick(ends.original.ip(), &mut rand::rng())
        .ok_or(Refusal::NoEndpoint)?;
    Ok(Choice {
        addr: picked.endpoint.addr,
        workload: picked.endpoint.workload.clone(),
        protocol: upstream.protocol,
        service: Some(upstream.service.clone()),
        pick: Some(picked.pick),
    })
}

/// What no route acts on.
fn unrouted(destination: Destination, ends: Ends, ledger: &Ledger) -> Result<Choice, Refusal> {
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
fn routed(
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
            let upstream = snapshot.upstream(&backend.service, backend.port);
            let upstream = Arc::clone(upstream.ok_or(Refusal::InvalidBackend)?);
            let backend = Arc::clone(backend);
            Ok(Routed::To(
                upstream,
                Some(Applied::new(decided, backend, request.headers())),
            ))
        }
    }
}

fn inbound(
    mesh: &Mesh,
    pod: &Arc<ServedPod>,
    ends: Ends,
    peer: Option<&SpiffeId>,
    request: &Request<impl Sized>,
) -> Result<Plan, Refusal> {
    let snapshot = mesh.snapshots.load();
    let authority = authority_or(request, ends.original)?;
    // Asked for each request: the policy may have changed since the connection was accepted.
    let visit = visit(pod, ends, peer);
    visit
        .arrival()
        .admit_request(mesh, &snapshot, request, &authority)?;
    let from_agent = peer.is_some();
    let port = snapshot.inbound(&pod.pod.workload, ends.original.port());
    let original_version = request.headers().get(ORIGINAL_VERSION).filter(|_| from_agent);
    let version = match original_version.map(HeaderValue::as_bytes) {
        Some(b"1") => Version::HTTP_11,
        Some(_) | None => request.version(),
    };
    Ok(Plan {
        hop: Hop::SameNode(Arc::clone(pod)),
        addr: ends.original,
        via: Arc::clone(pod),
        client: ends.client,
        wire: wire_for(port.protocol, version),
        authority,
        route: None,
        deadline: None,
        attempt_deadline: None,
        pick: None,
        visit: Some(visit),
    })
}

/// A port that declares HTTP/2 gets it; any other is spoken to as the client spoke.
fn wire_for(protocol: AppProtocol, spoken: Version) -> Wire {
    match protocol {
        AppProtocol::Http2 | AppProtocol::Grpc => Wire::H2,
        AppProtocol::Http | AppProtocol::Tcp | AppProtocol::Detect if spoken == Version::HTTP_2 => Wire::H2,
        AppProtocol::Http | AppProtocol::Tcp | AppProtocol::Detect => Wire::H1,
    }
}

/// An HTTP/1.0 client may name no authority: what it dialled stands in for it.
pub(super) fn authority_or(request: &Request<impl Sized>, dialled: SocketAddr) -> Result<Authority, Refusal> {
    match authority(request)? {
        Some(authority) => Ok(authority),
        None => dialled.to_string().parse().map_err(|_invalid| Refusal::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_2_is_spoken_where_it_is_declared_or_was_spoken() {
        for (protocol, spoken, expected) in [
            (AppProtocol::Http, Version::HTTP_11, Wire::H1),
            (AppProtocol::Http, Version::HTTP_10, Wire::H1),
            (AppProtocol::Http, Version::HTTP_2, Wire::H2),
            (AppProtocol::Http2, Version::HTTP_11, Wire::H2),
            (AppProtocol::Grpc, Version::HTTP_2, Wire::H2),
            (AppProtocol::Detect, Version::HTTP_11, Wire::H1),
            (AppProtocol::Detect, Version::HTTP_2, Wire::H2),
        ] {
            assert_eq!(wire_for(protocol, spoken), expected, "{protocol:?} {spoken:?}");
        }
    }
}
