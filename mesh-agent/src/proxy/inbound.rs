//! The inbound walk: from somebody who dialled a pod of this node to the pod's application.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;

use crate::capture::door::Captured;
use crate::detect::{Look, Prefixed, Spoken, look};
use crate::identity::hello::{Hello, hello};
use crate::identity::{Alpn, HandshakeFailure, Shown, WorkloadTls};
use crate::lifecycle::LaneStream;
use crate::mesh::identity::SpiffeId;
use crate::mesh::policy::MtlsMode;
use crate::mesh::service::AppProtocol;
use crate::proxy::approval;
use crate::proxy::arrival::Visit;
use crate::proxy::hop::Hop;
use crate::proxy::http::{Side, serve_http};
use crate::proxy::live::until_refused;
use crate::proxy::outbound::read_protocol;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::tcp::{TcpLedger, carry};
use crate::proxy::{Ends, Mesh};
use crate::telemetry::{
    Direction, FlowLabels, HandshakeSide, PathTaken, PeerLabels, Reporter, Security, TcpStart,
};
use crate::transport::ByteStream;
use crate::transport::dial::tune;
use crate::transport::tls;

/// Carries one captured connection to its end.
pub(super) async fn serve(mesh: Arc<Mesh>, pod: Arc<ServedPod>, captured: Captured) {
    let ends = Ends {
        client: captured.peer,
        original: captured.original,
    };
    // A client of another machine may vanish without a word.
    if let Err(error) = tune(&captured.stream) {
        tracing::debug!(%error, client = %ends.client, "connection failed before its first bytes");
        return;
    }
    let Some(patience) = patience(&mesh, &pod, ends) else {
        return Box::pin(plaintext(mesh, pod, ends, captured.stream.into())).await;
    };
    let judged = look(captured.stream, patience, |first| match hello(first) {
        Hello::Partial => Look::NeedMore,
        Hello::Mesh(alpn) => Look::Is(Some(alpn)),
        Hello::Other => Look::Is(None),
    });
    let (verdict, stream) = match judged.await {
        Ok(judged) => judged,
        Err(error) => {
            tracing::debug!(%error, client = %ends.client, "connection failed before its first bytes");
            return;
        }
    };
    match verdict.flatten() {
        Some(alpn) => Box::pin(from_agent(mesh, pod, ends, stream, alpn)).await,
        None => Box::pin(plaintext(mesh, pod, ends, stream)).await,
    }
}

/// How long a ClientHello is waited for: a peer of the mesh always sends one, and nobody else needs to wait for it
/// longer than the detection time. A known outsider on an opaque port is not kept waiting at all: its server may
/// be the one that speaks first. `None` where PeerAuthentication says DISABLE: even a ClientHello of the mesh is the
/// application's own bytes there.
fn patience(mesh: &Mesh, pod: &ServedPod, ends: Ends) -> Option<Duration> {
    let snapshot = mesh.snapshots.load();
    let mode = snapshot.mtls_mode(pod.as_known(&snapshot), ends.original.port());
    if mode == MtlsMode::Disable {
        return None;
    }
    Some(match snapshot.workload_at(ends.client.ip()) {
        Some(client) if client.is_enrolled() => mesh.settings.connect_timeout,
        Some(_) if snapshot.inbound(&pod.pod.workload, ends.original.port()).protocol == AppProtocol::Tcp => {
            Duration::ZERO
        }
        Some(_) | None => mesh.settings.detect_timeout,
    })
}

async fn from_agent(
    mesh: Arc<Mesh>,
    pod: Arc<ServedPod>,
    ends: Ends,
    stream: Prefixed<LaneStream>,
    alpn: Alpn,
) {
    let Some(ours) = mesh.certificates.tls(&pod.pod.workload.identity) else {
        tracing::warn!(pod = %pod.pod.workload.pod_name, "mTLS refused: the pod has no certificate yet");
        mesh.telemetry
            .mesh()
            .handshake_failed(HandshakeSide::Server, "no_certificate");
        return stream.reset_on_close();
    };
    let permit = match pod.handshakes.inbound.admit(Instant::now()) {
        Ok(permit) => permit,
        Err(too_many) => {
            pod.crowded(&mesh, Direction::Inbound, too_many);
            return stream.reset_on_close();
        }
    };
    let Some((tls, peer, shown)) = handshake(&mesh, &pod, &ours, stream, ends).await else {
        return;
    };
    drop(permit);
    let revoked = mesh.certificates.revocations().revoked(shown);
    let spoken = match alpn {
        Alpn::H2 => Spoken::Http2,
        Alpn::H1 => Spoken::Http1,
        Alpn::Tcp => return Box::pin(tcp(&mesh, &pod, ends, tls, Some((&peer, revoked)))).await,
    };
    let visit = visit(&pod, ends, Some(&peer));
    let side = Side::Inbound {
        pod,
        ends,
        peer: Some(peer),
    };
    tokio::select! {
        () = Box::pin(serve_http(Arc::clone(&mesh), side, Box::new(tls), spoken)) => {}
        // What is under way ends in the middle.
        () = revoked => visit.arrival().refused(&mesh, &Refusal::Revoked),
    }
}

async fn handshake(
    mesh: &Mesh,
    pod: &ServedPod,
    ours: &WorkloadTls,
    stream: Prefixed<LaneStream>,
    ends: Ends,
) -> Option<(tls::ServerStream<Prefixed<LaneStream>>, SpiffeId, Shown)> {
    let workshop = &pod.handshakes.workshop;
    match tls::accept(ours, stream, workshop, mesh.settings.connect_timeout).await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            let reason = HandshakeFailure::of(&error).as_str();
            tracing::debug!(reason, %error, client = %ends.client, "mTLS handshake refused");
            mesh.telemetry
                .mesh()
                .handshake_failed(HandshakeSide::Server, reason);
            None
        }
    }
}

async fn plaintext(mesh: Arc<Mesh>, pod: Arc<ServedPod>, ends: Ends, stream: Prefixed<LaneStream>) {
    let port = ends.original.port();
    let (judged, protocol) = {
        let snapshot = mesh.snapshots.load();
        let workload = pod.as_known(&snapshot);
        let is_probe = snapshot.is_probe(workload, ends.client.ip(), port);
        if is_probe {
            tracing::debug!(pod = %workload.pod_name, client = %ends.client, port, "probe of the pod's own node");
        }
        let visit = visit(&pod, ends, None);
        let arrival = visit.arrival();
        let judged = arrival
            .judge_plaintext(&snapshot)
            .inspect_err(|refusal| arrival.refused(&mesh, refusal));
        (judged, snapshot.inbound(workload, port).protocol)
    };
    if let Err(refusal) = judged {
        tcp_ledger(&mesh, &pod, ends, None).refuse(&refusal);
        return stream.reset_on_close();
    }
    let stop = pod.tasks.stop();
    match read_protocol(protocol, stream, &mesh, &stop).await {
        Ok((stream, Some(spoken))) => {
            let side = Side::Inbound {
                pod,
                ends,
                peer: None,
            };
            Box::pin(serve_http(mesh, side, Box::new(stream), spoken)).await;
        }
        Ok((stream, None)) => {
            let nobody: Option<(&SpiffeId, std::future::Pending<()>)> = None;
            Box::pin(tcp(&mesh, &pod, ends, stream, nobody)).await;
        }
        Err(error) => {
            tracing::debug!(%error, client = %ends.client, "connection failed before its first bytes");
        }
    }
}

async fn tcp(
    mesh: &Arc<Mesh>,
    pod: &Arc<ServedPod>,
    ends: Ends,
    stream: impl ByteStream,
    proved: Option<(&SpiffeId, impl Future<Output = ()>)>,
) {
    let (peer, revoked) = proved.unzip();
    let ledger = tcp_ledger(mesh, pod, ends, peer);
    let mut visit = visit(pod, ends, peer);
    if let Err(refusal) = approval::admit(mesh, &mut visit, ends.client).await {
        ledger.refuse(&refusal);
        return stream.reset_on_close();
    }
    let arrival = visit.arrival();
    let hop = Hop::SameNode(Arc::clone(pod));
    match hop
        .connect(mesh, pod, ends.client, ends.original, Alpn::Tcp)
        .await
    {
        Ok(upstream) => {
            let idle = mesh.settings.idle_timeout;
            tokio::select! {
                () = carry(stream, upstream, idle, &ledger) => {}
                Some(()) = OptionFuture::from(revoked) => {
                    arrival.refused(mesh, &Refusal::Revoked);
                    ledger.refuse(&Refusal::Revoked);
                }
                refusal = until_refused(mesh, |snapshot| arrival.judge_bytes(snapshot)) => {
                    arrival.refused(mesh, &refusal);
                    ledger.refuse(&refusal);
                }
            }
        }
        Err(error) => {
            tracing::debug!(%error, cause = ?error, addr = %ends.original, "the application cannot be reached");
            ledger.refuse(&error.into());
            stream.reset_on_close();
        }
    }
}

/// A connection of the inbound walk, as the pod's policies see it.
pub(super) fn visit(pod: &Arc<ServedPod>, ends: Ends, peer: Option<&SpiffeId>) -> Visit {
    Visit {
        pod: Arc::clone(pod),
        peer: peer.cloned(),
        client: ends.client.ip(),
        addr: ends.original,
        approved: None,
        is_all: true,
    }
}

fn tcp_ledger(mesh: &Mesh, pod: &ServedPod, ends: Ends, peer: Option<&SpiffeId>) -> TcpLedger {
    let flow = destination_flow(mesh, pod, ends, peer);
    let start = TcpStart {
        source: ends.client,
        destination: ends.original,
        started: Instant::now(),
    };
    let record = mesh.telemetry.tcp(flow, start);
    record.upstream(ends.original);
    if peer.is_none() {
        record.path_taken(PathTaken::Plain);
    }
    TcpLedger(vec![record])
}

/// The labels of a flow into `pod`. The client's workload is what discovery knows at its address; its principal
/// is only what it proved.
pub(super) fn destination_flow(
    mesh: &Mesh,
    pod: &ServedPod,
    ends: Ends,
    peer: Option<&SpiffeId>,
) -> FlowLabels {
    let snapshot = mesh.snapshots.load();
    let source = match (snapshot.workload_at(ends.client.ip()), peer) {
        // Nearly always: who is expected there.
        (Some(client), Some(peer)) if client.is_enrolled() && client.identity == *peer => {
            snapshot.labels(client)
        }
        (Some(client), peer) => Arc::new(snapshot.labels(client).with_principal(peer)),
        (None, None) => PeerLabels::unknown(),
        (None, peer) => Arc::new(PeerLabels::unknown().with_principal(peer)),
    };
    FlowLabels {
        reporter: Reporter::Destination,
        source,
        destination: snapshot.labels(pod.as_known(&snapshot)),
        service: snapshot.inbound(&pod.pod.workload, ends.original.port()).service,
        security: if peer.is_some() {
            Security::MutualTls
        } else {
            Security::None
        },
    }
}
