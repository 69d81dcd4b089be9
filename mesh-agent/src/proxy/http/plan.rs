//! Decides how one attempt of a request reaches its endpoint, and whether that endpoint lets it in.
//!
//! Place in the walk: after the course of the request is known, once for each attempt; where requests come in, once.
//! Must not know: routes, bodies, whether there are further attempts.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::SET_COOKIE;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use tokio::time::Instant;

use crate::balance::{Breakers, Pick};
use crate::external::HeaderChange;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::identity::SpiffeId;
use crate::mesh::service::AppProtocol;
use crate::policy::authentication::Claims;
use crate::proxy::arrival::Visit;
use crate::proxy::backend;
use crate::proxy::hop::Hop;
use crate::proxy::http::admission::authenticate::authenticate;
use crate::proxy::http::choose::{Choice, Tried, endpoint};
use crate::proxy::http::decide::{Course, authority_or};
use crate::proxy::http::headers::ORIGINAL_VERSION;
use crate::proxy::http::introduce::introduce;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::routed::Applied;
use crate::proxy::inbound::visit;
use crate::proxy::outbound::{same_node, source_flow};
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::{Ends, Mesh};
use crate::snapshot::Snapshot;
use crate::telemetry::{Direction, FlowLabels, PeerLabels, Reporter};
use crate::transport::pool::Wire;
use crate::transport::proxy_header::ProxyHeader;

/// Who asks: an application of this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    /// What the walk needs besides the request.
    pub(super) mesh: &'a Arc<Mesh>,
    /// Its pod.
    pub(super) source: &'a Arc<ServedPod>,
    /// The application, and what it dialled.
    pub(super) ends: Ends,
    /// Where what is learned is noted.
    pub(super) ledger: &'a Arc<Ledger>,
}

/// Where an attempt goes and how. Kept on the heap: it is handed on, and futures have room for each time that one is.
#[derive(Debug)]
pub(super) struct Plan {
    /// The way to the endpoint.
    pub(super) hop: Hop,
    /// The endpoint.
    pub(super) addr: SocketAddr,
    /// What records call whoever is there, where this agent is the source's.
    pub(super) peer: Option<Arc<PeerLabels>>,
    /// The pod in whose name the connection is made.
    pub(super) via: Arc<ServedPod>,
    /// The client that the application is shown.
    pub(super) client: SocketAddr,
    /// What the application at the end is spoken to in.
    pub(super) wire: Wire,
    /// The TLS that the application speaks itself, where this agent is the one that begins it.
    pub(super) tls: Option<Arc<BackendTls>>,
    /// What the endpoint is told of the client before anything else.
    pub(super) proxied: Option<ProxyHeader>,
    /// The authority that the client named.
    pub(super) authority: Authority,
    /// The route that the request took, if one did.
    pub(super) route: Option<Applied>,
    /// When the whole transaction must be over.
    pub(super) deadline: Option<Instant>,
    /// When the response must have begun.
    pub(super) attempt_deadline: Option<Instant>,
    /// Counts the request as active at its endpoint, and is told what became of it.
    pub(super) pick: Option<Pick>,
    /// What may be under way to the upstream.
    pub(super) breakers: Option<Breakers>,
    /// What the response sets so that the client's next request finds the same endpoint.
    pub(super) cookie: Option<HeaderValue>,
    /// A header that begins the client's session.
    pub(super) session: Option<(HeaderName, HeaderValue)>,
    /// The arrival at a pod of this node, for as long as the request is under way.
    pub(super) visit: Option<Visit>,
    /// What the request's token claims, as the policies of that pod asked for it.
    pub(super) token: Option<Claims>,
    /// The extension provider that must let the request in before the other policies are asked.
    pub(super) ask: Option<Arc<str>>,
    /// What it wants written into the response's headers.
    pub(super) on_response: Vec<HeaderChange>,
}

impl Plan {
    /// Tells the client how its next request finds the same endpoint.
    pub(super) fn keep_client(&mut self, response: &mut HeaderMap) {
        if let Some(cookie) = self.cookie.take() {
            response.append(SET_COOKIE, cookie);
        }
        match self.session.take() {
            Some((name, cookie)) if name == SET_COOKIE => {
                response.append(name, cookie);
            }
            Some((name, token)) => {
                response.insert(name, token);
            }
            None => {}
        }
    }

    /// Whether a pod of this node asks, or is asked.
    pub(super) fn direction(&self) -> Direction {
        match &self.hop {
            Hop::SameNode(pod) if Arc::ptr_eq(pod, &self.via) => Direction::Inbound,
            Hop::SameNode(_) | Hop::OtherNode { .. } | Hop::Plain { .. } => Direction::Outbound,
        }
    }

    /// Tells the source's record of this attempt, where it was told of another one.
    pub(super) fn tell_source(&self, ledger: &Ledger) {
        ledger.at_source(|record| {
            if let Some(peer) = &self.peer {
                record.sent_to(Arc::clone(peer), self.hop.security(), self.addr);
            }
        });
        ledger.path_taken(self.hop.path());
    }

    /// When the response must have begun.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.attempt_deadline).min()
    }
}

/// Plans an attempt of a request that left an application of this node, and asks the policies of an endpoint on this
/// node, which may change the request.
///
/// Endpoints in `tried` are avoided where there are others; the one that was chosen is one of them afterwards.
pub(super) fn outbound(
    caller: &Caller<'_>,
    course: Course,
    request: &mut Request<impl Sized>,
    tried: Option<&mut Tried>,
) -> Result<Box<Plan>, Refusal> {
    let Caller {
        mesh,
        source,
        ends,
        ledger,
    } = *caller;
    let snapshot = mesh.snapshots.load();
    let began = Instant::now();
    let choice = endpoint(&course, ends, request, tried)?;
    if let Some(service) = &choice.service {
        ledger.service(service);
    }
    let hop = Hop::decide(mesh, &snapshot, choice.workload.as_ref(), choice.addr.port())?;
    let peer = note(caller, &snapshot, &choice, &hop);
    let visit = same_node(&hop, source, ends, choice.addr);
    let (token, ask) = match &visit {
        Some(visit) => admit(mesh, &snapshot, visit, request, &course.authority)?,
        None => (None, None),
    };
    let limit = course.route.as_ref().and_then(|route| route.limits().attempt);
    Ok(Box::new(Plan {
        tls: backend::tls_behind(&hop, choice.addr.port(), &snapshot, choice.tls.as_ref()),
        proxied: backend::introduction(&hop, choice.proxied, ends),
        hop,
        addr: choice.addr,
        peer: Some(peer),
        via: Arc::clone(source),
        client: ends.client,
        wire: wire_for(choice.protocol, request.version()),
        authority: course.authority,
        route: course.route,
        deadline: course.deadline,
        attempt_deadline: limit.map(|limit| began + limit),
        pick: choice.pick,
        breakers: choice.breakers,
        cookie: choice.cookie,
        session: choice.session,
        visit,
        token,
        ask,
        on_response: Vec::new(),
    }))
}

/// Tells the records who is asked, and by which way.
fn note(caller: &Caller<'_>, snapshot: &Snapshot, choice: &Choice, hop: &Hop) -> Arc<PeerLabels> {
    let ledger = caller.ledger;
    let destination = choice
        .workload
        .as_deref()
        .map_or_else(PeerLabels::unknown, |workload| snapshot.labels(workload));
    if matches!(hop, Hop::SameNode(_)) {
        let flow = source_flow(
            caller.source,
            Some(Arc::clone(&destination)),
            choice.service.clone(),
            hop.security(),
        );
        ledger.also(FlowLabels {
            reporter: Reporter::Destination,
            ..flow
        });
    }
    ledger.each(|record| {
        record.sent_to(Arc::clone(&destination), hop.security(), choice.addr);
    });
    ledger.path_taken(hop.path());
    destination
}

/// Plans a request that somebody sent to a pod of this node, if its policies let it in.
pub(super) fn inbound(
    mesh: &Mesh,
    pod: &Arc<ServedPod>,
    ends: Ends,
    peer: Option<&SpiffeId>,
    request: &mut Request<impl Sized>,
) -> Result<Box<Plan>, Refusal> {
    let snapshot = mesh.snapshots.load();
    let authority = authority_or(request, ends.original)?;
    // Asked for each request: the policy may have changed since the connection was accepted.
    let visit = visit(pod, ends, peer);
    let (token, ask) = admit(mesh, &snapshot, &visit, request, &authority)?;
    let from_agent = peer.is_some();
    let port = snapshot.inbound(&pod.pod.workload, ends.original.port());
    let original_version = request.headers().get(ORIGINAL_VERSION).filter(|_| from_agent);
    let version = match original_version.map(HeaderValue::as_bytes) {
        Some(b"1") => Version::HTTP_11,
        Some(b"2") => Version::HTTP_2,
        Some(_) | None => request.version(),
    };
    Ok(Box::new(Plan {
        hop: Hop::SameNode(Arc::clone(pod)),
        addr: ends.original,
        peer: None,
        via: Arc::clone(pod),
        client: ends.client,
        wire: wire_for(port.protocol, version),
        // Who comes from elsewhere speaks with the application as it would without a mesh.
        tls: port.tls.filter(|_| from_agent),
        proxied: None,
        authority,
        route: None,
        deadline: None,
        attempt_deadline: None,
        pick: None,
        breakers: None,
        cookie: None,
        session: None,
        visit: Some(visit),
        token,
        ask,
        on_response: Vec::new(),
    }))
}

/// What the policies of the pod that is reached say: its tokens first, since authorization asks for what they claim.
/// Returns what the token claims, and the extension provider that must be asked before the other policies are.
fn admit(
    mesh: &Mesh,
    snapshot: &Snapshot,
    visit: &Visit,
    request: &mut Request<impl Sized>,
    authority: &Authority,
) -> Result<(Option<Claims>, Option<Arc<str>>), Refusal> {
    let arrival = visit.arrival();
    arrival
        .judge_plaintext(snapshot)
        .inspect_err(|refusal| arrival.refused(mesh, refusal))?;
    introduce(
        request.headers_mut(),
        &arrival.pod.identity,
        arrival.proven(snapshot),
    );
    let token = authenticate(mesh, snapshot, &arrival, request, authority)?;
    let ask = arrival.admit_request(mesh, snapshot, request, authority, token.as_ref())?;
    Ok((token, ask))
}

/// A port that declares HTTP/2 gets it; any other is spoken to as the client spoke.
pub(super) fn wire_for(protocol: AppProtocol, spoken: Version) -> Wire {
    match protocol {
        AppProtocol::Http2 | AppProtocol::Grpc => Wire::H2,
        AppProtocol::Http | AppProtocol::Tcp | AppProtocol::Detect if spoken == Version::HTTP_2 => Wire::H2,
        AppProtocol::Http | AppProtocol::Tcp | AppProtocol::Detect => Wire::H1,
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
