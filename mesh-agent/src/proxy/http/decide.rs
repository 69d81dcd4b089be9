//! Decides what a request of this node's applications goes to: once for a request, however often it is tried.
//!
//! Place in the walk: the first decision on the client's side; an endpoint is chosen for each attempt by [`super::plan`].
//! Must not know: endpoints, policies of the destination, connections.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::Authority;
use http::{Request, Response};
use tokio::time::Instant;

use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::workload::Workload;
use crate::proxy::http::admission::gate::Decision;
use crate::proxy::http::choose::{Routed, routed};
use crate::proxy::http::headers::authority;
use crate::proxy::http::plan::Caller;
use crate::proxy::http::routed::Applied;
use crate::proxy::http::{Connection, Side};
use crate::proxy::inbound::destination_flow;
use crate::proxy::outbound::source_flow;
use crate::proxy::refusal::Refusal;
use crate::proxy::session::Keeping;
use crate::snapshot::{Destination, Snapshot, Upstream};
use crate::telemetry::{FlowLabels, Security};

/// Where a request goes, before an endpoint is chosen.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// What may answer it.
    pub(super) target: Target,
    /// The authority that the application is shown.
    pub(super) authority: Authority,
    /// The route that the request took, if one did.
    pub(super) route: Option<Applied>,
    /// When the whole transaction must be over.
    pub(super) deadline: Option<Instant>,
}

/// What may answer a request.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// Any endpoint of a Service port, or the one at which the client is kept.
    Upstream(Arc<Upstream>, Option<Keeping>),
    /// The pod whose own address the client dialled.
    Workload {
        /// The pod.
        workload: Arc<Workload>,
        /// What is known to be spoken on the port.
        protocol: AppProtocol,
        /// The Service whose endpoint it is, if any.
        service: Option<ServiceName>,
    },
}

/// What becomes of a request that is let in.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is sent on.
    Forward(Course),
    /// A route answers it.
    Answer(Response<Bytes>),
}

impl Target {
    /// The endpoint at which the client's session is kept, if it has one.
    pub(super) fn kept(&self) -> Option<SocketAddr> {
        match self {
            Self::Upstream(_, keeping) => keeping.as_ref().and_then(Keeping::endpoint),
            Self::Workload { .. } => None,
        }
    }
}

impl Course {
    /// Changes a request as its route says.
    pub(super) fn edit(
        &mut self,
        request: &mut Request<impl Sized>,
        snapshot: &Snapshot,
    ) -> Result<(), Refusal> {
        match &self.route {
            Some(route) => route.edit_request(request, &mut self.authority, snapshot.path_form()),
            None => Ok(()),
        }
    }
}

/// Takes the decision for one request, which is changed as its route says unless somebody must let it in before; what is
/// learned on the way is noted.
pub(super) fn decide(caller: &Caller<'_>, request: &mut Request<impl Sized>) -> Result<Decision, Refusal> {
    let Caller {
        mesh,
        source,
        ends,
        ledger,
    } = *caller;
    let snapshot = mesh.snapshots.load();
    let authority = authority_or(request, ends.original)?;
    let began = Instant::now();
    let (target, route) = match snapshot.destination(&source.pod.workload, ends.original) {
        Destination::Service(dialled) => {
            ledger.service(&dialled.service);
            let client = &source.pod.workload;
            match routed(&snapshot, client, dialled, request, &authority, ledger)? {
                Routed::Answer(response, gate) => {
                    let gates = gate.into_iter().collect();
                    return Ok(Decision::gated(Outcome::Answer(response), gates));
                }
                Routed::To(target, route) => {
                    if let Target::Upstream(upstream, _) = &target {
                        ledger.service(&upstream.service);
                    }
                    (target, route)
                }
            }
        }
        Destination::Workload {
            workload,
            protocol,
            service,
        } => {
            let target = Target::Workload {
                workload,
                protocol,
                service,
            };
            (target, None)
        }
        Destination::NoSuchPort(service) => {
            ledger.service(&service);
            return Err(Refusal::NoSuchPort);
        }
        // The Service vanished while the connection lived on.
        Destination::Unknown => return Err(Refusal::NoEndpoint),
    };
    let limit = route.as_ref().and_then(|route| route.limits().request);
    let mut course = Course {
        target,
        authority,
        route,
        deadline: limit.map(|limit| began + limit),
    };
    let gates: Vec<_> = course.route.iter().flat_map(Applied::gates).cloned().collect();
    if gates.is_empty() {
        course.edit(request, &snapshot)?;
    }
    Ok(Decision::gated(Outcome::Forward(course), gates))
}

/// The labels that a request is opened with; the outbound walk learns the destination later.
pub(super) fn first_flow(connection: &Connection) -> FlowLabels {
    match &connection.side {
        Side::Outbound { source, .. } => source_flow(source, None, None, Security::Unknown),
        Side::Inbound { pod, ends, peer } => destination_flow(&connection.mesh, pod, *ends, peer.as_ref()),
    }
}

/// An HTTP/1.0 client may name no authority: what it dialled stands in for it.
pub(super) fn authority_or(request: &Request<impl Sized>, dialled: SocketAddr) -> Result<Authority, Refusal> {
    match authority(request)? {
        Some(authority) => Ok(authority),
        None => dialled.to_string().parse().map_err(|_invalid| Refusal::Malformed),
    }
}
