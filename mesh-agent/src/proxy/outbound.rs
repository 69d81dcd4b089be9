//! The outbound walk: from an application of this node to wherever it dialled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mesh_common::dns::DNS_PORT;
use tokio::net::TcpStream;

use crate::balance::{Limit, Outcome, Pick};
use crate::capture::door::Captured;
use crate::detect::{Prefixed, Spoken, look, spoken};
use crate::identity::Alpn;
use crate::lifecycle::Stop;
use crate::mesh::service::{AppProtocol, ServiceName};
use crate::mesh::workload::Workload;
use crate::proxy::affinity;
use crate::proxy::approval;
use crate::proxy::arrival::{Arrival, Visit};
use crate::proxy::conduct;
use crate::proxy::dns::{Stream, answer_stream};
use crate::proxy::hop::Hop;
use crate::proxy::http::{Side, serve_http};
use crate::proxy::live::until_refused;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::tcp::{TcpLedger, carry};
use crate::proxy::{Ends, Mesh};
use crate::snapshot::{Destination, PickFacts, Snapshot};
use crate::telemetry::{FlowLabels, PeerLabels, Reporter, Security, TcpStart};
use crate::transport::ByteStream;

/// Carries one captured connection to its end.
pub(super) async fn serve(mesh: Arc<Mesh>, source: Arc<ServedPod>, captured: Captured) {
    let ends = Ends {
        client: captured.peer,
        original: captured.original,
    };
    if ends.original.port() == DNS_PORT && source.dns.is_captured() {
        return Box::pin(dns_stream(&mesh, &source, ends, captured.stream)).await;
    }
    let protocol = protocol_of(&mesh.snapshots.load().destination(ends.original));
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
        None => Box::pin(tcp(&mesh, &source, ends, stream)).await,
    }
}

/// DNS over TCP: what is not answered here goes on to the resolver, as opaque bytes.
async fn dns_stream(mesh: &Arc<Mesh>, source: &Arc<ServedPod>, ends: Ends, stream: TcpStream) {
    match answer_stream(mesh, source, stream).await {
        Ok(Stream::Over) => {}
        Ok(Stream::Onward(stream)) => tcp(mesh, source, ends, stream).await,
        Err(error) => tracing::debug!(%error, client = %ends.client, "DNS over TCP failed"),
    }
}

/// What is known of the destination's protocol before a byte is read.
fn protocol_of(destination: &Destination) -> AppProtocol {
    match destination {
        Destination::Service(upstream) => upstream.protocol,
        Destination::Workload { protocol, .. } => *protocol,
        // Outside the mesh nothing is decided by HTTP: bytes pass at once.
        Destination::NoSuchPort(_) | Destination::Unknown => AppProtocol::Tcp,
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
    let stopped = async {
        stop.requested().await;
        // What the client sent before it could know is still served.
        tokio::time::sleep(mesh.settings.detect_timeout).await;
    };
    let (verdict, stream) = tokio::select! {
        looked = look(stream, limit, spoken) => looked?,
        () = stopped => return Err(std::io::ErrorKind::ConnectionAborted.into()),
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

/// One endpoint that was chosen for a TCP connection.
struct Choice {
    addr: SocketAddr,
    workload: Option<Arc<Workload>>,
    service: Option<ServiceName>,
    /// Counts the connection as active at its endpoint, and is told what became of it.
    pick: Option<Pick>,
}

fn choose(snapshot: &Snapshot, ends: Ends) -> Result<Choice, (Refusal, Option<ServiceName>)> {
    let original = ends.original;
    match snapshot.destination(original) {
        Destination::Service(upstream) => {
            let facts = PickFacts {
                dialled: original.ip(),
                hash: upstream
                    .hash_key()
                    .and_then(|key| affinity::of_connection(key, ends.client.ip())),
                of: Limit::Connections,
                tried: &[],
                now: Instant::now(),
            };
            let picked = upstream
                .pick(&facts, &mut rand::rng())
                .map_err(|unpicked| (unpicked.into(), Some(upstream.service.clone())))?;
            Ok(Choice {
                addr: picked.endpoint.addr,
                workload: picked.endpoint.workload.clone(),
                service: Some(upstream.service.clone()),
                pick: Some(picked.pick),
            })
        }
        Destination::Workload {
            workload, service, ..
        } => Ok(Choice {
            addr: original,
            workload: Some(workload),
            service,
            pick: None,
        }),
        Destination::NoSuchPort(service) => Err((Refusal::NoSuchPort, Some(service))),
        Destination::Unknown => Ok(Choice {
            addr: original,
            workload: None,
            service: None,
            pick: None,
        }),
    }
}

async fn tcp(mesh: &Arc<Mesh>, source: &Arc<ServedPod>, ends: Ends, stream: Prefixed<TcpStream>) {
    let start = TcpStart {
        source: ends.client,
        destination: ends.original,
        started: Instant::now(),
    };
    let chosen = {
        let snapshot = mesh.snapshots.load();
        choose(&snapshot, ends).map(|choice| {
            let hop = Hop::decide(mesh, &snapshot, choice.workload.as_ref(), choice.addr.port());
            (choice, hop)
        })
    };
    let (mut choice, hop) = match chosen {
        Ok(chosen) => chosen,
        Err((refusal, service)) => {
            let flow = source_flow(source, None, service, Security::Unknown);
            TcpLedger(vec![mesh.telemetry.tcp(flow, start)]).refuse(&refusal);
            return stream.reset_on_close();
        }
    };
    let hop = match hop {
        Ok(hop) => hop,
        Err(refusal) => {
            let security = Security::Unknown;
            let flow = source_flow(
                source,
                choice.workload.as_deref(),
                choice.service.clone(),
                security,
            );
            TcpLedger(vec![mesh.telemetry.tcp(flow, start)]).refuse(&refusal);
            return stream.reset_on_close();
        }
    };
    let ledger = TcpLedger(
        flows(source, choice.workload.as_deref(), choice.service.clone(), &hop)
            .into_iter()
            .map(|flow| mesh.telemetry.tcp(flow, start.clone()))
            .collect(),
    );
    for record in &ledger.0 {
        record.upstream(choice.addr);
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
    match hop
        .connect(mesh, source, ends.client, choice.addr, Alpn::Tcp)
        .await
    {
        Ok(upstream) => {
            if let Some(pick) = &mut choice.pick {
                pick.answered(Instant::now());
                pick.done(Outcome::Good, Instant::now());
            }
            let revoked = upstream.revoked();
            tokio::select! {
                () = carry(stream, upstream, mesh.settings.idle_timeout, &ledger) => {}
                () = revoked => ledger.refuse(&Refusal::Revoked),
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
    destination: Option<&Workload>,
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
    destination: Option<&Workload>,
    service: Option<ServiceName>,
    security: Security,
) -> FlowLabels {
    FlowLabels {
        reporter: Reporter::Source,
        source: Arc::new(PeerLabels::of(&source.pod.workload)),
        destination: Arc::new(destination.map_or_else(PeerLabels::unknown, PeerLabels::of)),
        service,
        security,
    }
}
