//! The outbound walk: from an application of this node to wherever it dialled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::dns::DNS_PORT;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::balance::Outcome;
use crate::capture::door::Captured;
use crate::detect::{Prefixed, Spoken, look, spoken};
use crate::identity::{Alpn, BackendAlpn};
use crate::lifecycle::Stop;
use crate::mesh::route::Opening;
use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::workload::Workload;
use crate::proxy::approval;
use crate::proxy::arrival::{Arrival, Visit};
use crate::proxy::backend;
use crate::proxy::breaker::within;
use crate::proxy::conduct;
use crate::proxy::dns::{Stream, answer_stream};
use crate::proxy::hop::Hop;
use crate::proxy::http::{Side, serve_http};
use crate::proxy::live::until_refused;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::stream::{self, Choice, choose, protocol_of};
use crate::proxy::tcp::{TcpLedger, carry};
use crate::proxy::{Ends, Mesh, tunnel};
use crate::route::Need;
use crate::telemetry::{FlowLabels, PeerLabels, Reporter, ResponseFlag, Security, TcpStart};
use crate::transport::ByteStream;
use crate::transport::leg::Leg;

/// Carries one captured connection to its end.
pub(super) async fn serve(mesh: Arc<Mesh>, source: Arc<ServedPod>, captured: Captured) {
    let ends = Ends {
        client: captured.peer,
        original: captured.original,
    };
    if ends.original.port() == DNS_PORT && source.dns.is_captured() {
        return Box::pin(dns_stream(&mesh, &source, ends, captured.stream)).await;
    }
    let protocol = {
        let snapshot = mesh.snapshots.load();
        protocol_of(&snapshot, source.as_known(&snapshot), ends.original)
    };
    let stop = source.tasks.stop();
    let (stream, http) = match read_protocol(protocol, captured.stream, &mesh, &stop).await {
        Ok(read) => read,
        Err(error) => {
            tracing::debug!(%error, client = %ends.client, "connection failed before its first bytes");
            return;
        }
    };
    match http {
        Some(wire) => {
            let side = Side::Outbound { source, ends };
            Box::pin(serve_http(mesh, side, Box::new(stream), wire)).await;
        }
        None => Box::pin(opaque(&mesh, &source, ends, stream)).await,
    }
}

/// DNS over TCP: what is not answered here goes on to the resolver, as opaque bytes.
async fn dns_stream(mesh: &Arc<Mesh>, source: &Arc<ServedPod>, ends: Ends, stream: TcpStream) {
    match answer_stream(mesh, source, stream).await {
        Ok(Stream::Over) => {}
        Ok(Stream::Onward(stream)) => opaque(mesh, source, ends, stream).await,
        Err(error) => tracing::debug!(%error, client = %ends.client, "DNS over TCP failed"),
    }
}

/// Reads the first bytes where the declared protocol leaves something open; `None` means opaque.
///
/// Fails when `stop` is requested and the client goes on to say nothing: there is nothing to wait for.
pub(super) async fn read_protocol(
    declared: AppProtocol,
    stream: impl Into<Prefixed<TcpStream>>,
    mesh: &Mesh,
    stop: &Stop,
) -> std::io::Result<(Prefixed<TcpStream>, Option<Spoken>)> {
    let stream = stream.into();
    let limit = match declared {
        AppProtocol::Tcp => return Ok((stream, None)),
        // A client of an HTTP port speaks first, whenever it likes.
        AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => mesh.settings.idle_timeout,
        AppProtocol::Detect => mesh.settings.detect_timeout,
    };
    let (verdict, stream) = tokio::select! {
        looked = look(stream, limit, spoken) => looked?,
        () = stopped(mesh, stop) => return Err(std::io::ErrorKind::ConnectionAborted.into()),
    };
    let spoken = match (verdict, declared) {
        (Some(wire @ (Spoken::Http1 | Spoken::Http2)), _) => Some(wire),
        (Some(Spoken::Opaque) | None, AppProtocol::Detect | AppProtocol::Tcp) => None,
        // Passed on as opaque bytes it would go round the routes: on a port that says HTTP it is answered with 400.
        (Some(Spoken::Opaque) | None, AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc) => {
            Some(Spoken::Http1)
        }
    };
    Ok((stream.flatten(), spoken))
}

/// Until the agent has stopped; what a client sent before it could know is still served.
pub(super) async fn stopped(mesh: &Mesh, stop: &Stop) {
    stop.requested().await;
    sleep(mesh.settings.detect_timeout).await;
}

/// A connection that is no HTTP: what it begins with is looked at where a route asks for that.
async fn opaque(mesh: &Arc<Mesh>, source: &Arc<ServedPod>, ends: Ends, stream: Prefixed<TcpStream>) {
    let need = stream::need(mesh, source, ends.original);
    if need == Need::Nothing {
        return tcp(mesh, source, ends, stream, Opening::Other).await;
    }
    match Box::pin(stream::opening(mesh, source, need, stream)).await {
        Ok((opening, stream)) => tcp(mesh, source, ends, stream, opening).await,
        Err(error) => {
            tracing::debug!(%error, client = %ends.client, "connection failed before its first bytes");
        }
    }
}

async fn tcp(
    mesh: &Arc<Mesh>,
    source: &Arc<ServedPod>,
    ends: Ends,
    stream: Prefixed<TcpStream>,
    opening: Opening,
) {
    let start = TcpStart {
        source: ends.client,
        destination: ends.original,
        started: Instant::now(),
    };
    let (mut choice, hop) = match decide(mesh, source, ends, &opening) {
        Ok(decided) => decided,
        Err(refused) => {
            let (refusal, flow) = *refused;
            TcpLedger(vec![mesh.telemetry.tcp(flow, start)]).refuse(&refusal);
            return stream.reset_on_close();
        }
    };
    let destination = choice
        .workload
        .as_deref()
        .map(|workload| mesh.snapshots.load().labels(workload));
    let ledger = TcpLedger(
        flows(source, destination, choice.service.clone(), &hop)
            .into_iter()
            .map(|flow| mesh.telemetry.tcp(flow, start.clone()))
            .collect(),
    );
    for record in &ledger.0 {
        record.upstream(choice.addr);
        if let Some(route) = &choice.route {
            record.route(route);
        }
    }
    ledger.path_taken(hop.path());
    let mut visit = same_node(&hop, source, ends, choice.addr);
    if let Some(visit) = &mut visit
        && let Err(refusal) = approval::admit(mesh, visit, ends.client).await
    {
        ledger.refuse(&refusal);
        return stream.reset_on_close();
    }
    let arrival = visit.as_ref().map(Visit::arrival);
    let connecting = hop.connect(mesh, source, ends.client, choice.addr, Alpn::Tcp);
    let introduction = backend::introduction(&hop, choice.proxied, ends);
    let connecting = backend::introduced(mesh, introduction.as_ref(), connecting);
    // In the mesh bytes go as they are: who speaks bytes there speaks its application's.
    let tls = choice.tls.as_ref().filter(|_| matches!(hop, Hop::Plain { .. }));
    let connecting = backend::over(mesh, source, tls, BackendAlpn::Bytes, connecting);
    let limit = mesh.settings.connect_timeout;
    let connecting = tunnel::through(choice.tunnel.as_ref(), limit, connecting);
    match within(choice.limits.connect_timeout, connecting).await {
        Ok(upstream) => {
            if let Some(pick) = &mut choice.pick {
                pick.answered(Instant::now());
                pick.done(Outcome::Good, Instant::now());
            }
            let revoked = upstream.revoked();
            let cut = source.pool.cut_of(hop.uid(), choice.addr);
            let stream = stream.map(|stream| Leg::over_tcp(stream).relayed(&source.pod, ends.original));
            let idle = choice.limits.opaque_idle.unwrap_or(mesh.settings.idle_timeout);
            tokio::select! {
                () = carry(stream, upstream, idle, &ledger) => {}
                () = is_over(choice.limits.opaque_duration) => {
                    ledger.flag(ResponseFlag::Dt, "max_connection_duration");
                }
                () = revoked => ledger.refuse(&Refusal::Revoked),
                () = cut.cancelled() => ledger.flag(ResponseFlag::Dt, DRAINED),
                refusal = refused_midway(mesh, arrival) => ledger.refuse(&refusal),
            }
        }
        Err(error) => {
            tracing::debug!(%error, cause = ?error, addr = %choice.addr, "upstream connection failed");
            let refusal = error.into();
            conduct::refused(choice.pick.as_mut(), &refusal);
            ledger.refuse(&refusal);
            stream.reset_on_close();
        }
    }
}

/// Returns when a connection has lasted as long as it may.
async fn is_over(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// An endpoint and the way to it; or why there is none, and what is known of where it would have been.
fn decide(
    mesh: &Mesh,
    source: &ServedPod,
    ends: Ends,
    opening: &Opening,
) -> Result<(Choice, Hop), Box<(Refusal, FlowLabels)>> {
    let snapshot = mesh.snapshots.load();
    let refused = |refusal, destination: Option<&Workload>, service| {
        let destination = destination.map(|workload| snapshot.labels(workload));
        let flow = source_flow(source, destination, service, Security::Unknown);
        Box::new((refusal, flow))
    };
    let choice = choose(&snapshot, source.as_known(&snapshot), ends, opening)
        .map_err(|(refusal, service)| refused(refusal, None, service))?;
    match Hop::decide(mesh, &snapshot, choice.workload.as_ref(), choice.addr.port()) {
        Ok(hop) => Ok((choice, hop)),
        Err(refusal) => Err(refused(
            refusal,
            choice.workload.as_deref(),
            choice.service.clone(),
        )),
    }
}

/// Returns when the policies of a pod of this node begin to refuse the connection.
async fn refused_midway(mesh: &Mesh, arrival: Option<Arrival<'_>>) -> Refusal {
    let Some(arrival) = arrival else {
        return std::future::pending().await;
    };
    let refusal = until_refused(mesh, |snapshot| arrival.judge_bytes(snapshot)).await;
    arrival.refused(mesh, &refusal);
    refusal
}

/// The arrival at a pod of this node, whose policies nobody else asks; `addr` is the pod's own address and port.
pub(super) fn same_node(hop: &Hop, source: &ServedPod, ends: Ends, addr: SocketAddr) -> Option<Visit> {
    match hop {
        Hop::SameNode(pod) => Some(Visit {
            pod: Arc::clone(pod),
            peer: Some(source.pod.workload.identity.clone()),
            client: source.client_like(ends.client, addr).ip(),
            addr,
            approved: None,
            is_all: false,
        }),
        Hop::OtherNode { .. } | Hop::Plain { .. } => None,
    }
}

/// The labels of a flow from `source`: first one set for the source, and a second when this agent is also the
/// destination's.
pub(super) fn flows(
    source: &ServedPod,
    destination: Option<Arc<PeerLabels>>,
    service: Option<ServiceName>,
    hop: &Hop,
) -> Vec<FlowLabels> {
    let from_source = source_flow(source, destination, service, hop.security());
    if !matches!(hop, Hop::SameNode(_)) {
        return vec![from_source];
    }
    let to_destination = FlowLabels {
        reporter: Reporter::Destination,
        ..from_source.clone()
    };
    vec![from_source, to_destination]
}

pub(super) fn source_flow(
    source: &ServedPod,
    destination: Option<Arc<PeerLabels>>,
    service: Option<ServiceName>,
    security: Security,
) -> FlowLabels {
    FlowLabels {
        reporter: Reporter::Source,
        source: Arc::clone(&source.labels),
        destination: destination.unwrap_or_else(PeerLabels::unknown),
        service,
        security,
    }
}

/// Why a connection ended whose endpoint went away and that did not end by itself.
pub(super) const DRAINED: &str = "endpoint_drained";
