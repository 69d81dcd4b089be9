//! Connections to applications that speak TLS themselves, or ask who is behind them: who of the two agents begins it, and
//! on what.
//!
//! Place in the walk: round the connecting of a hop that ends at the application. Must not know: routes, requests.
//!
//! The agent next to the application begins it: its own node's if that is in the mesh, so that between nodes the mesh's own
//! mutual TLS carries requests as ever; the client's if it is outside.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::identity::BackendAlpn;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::proxy_protocol::ProxyProtocol;
use crate::proxy::hop::Hop;
use crate::proxy::pods::ServedPod;
use crate::proxy::{Ends, Mesh};
use crate::snapshot::Snapshot;
use crate::telemetry::Direction;
use crate::transport::pool::Wire;
use crate::transport::proxy_header::{self, ProxyHeader};
use crate::transport::{ByteStream, DialError, backend};

/// A connection that is being opened.
pub(super) type Connecting = BoxFuture<'static, Result<Box<dyn ByteStream>, DialError>>;

/// The TLS that this agent must begin with what is behind `hop`: a port of a pod of this node, or an endpoint outside of the
/// mesh, of which `outside` is said.
pub(super) fn tls_behind(
    hop: &Hop,
    port: u16,
    snapshot: &Snapshot,
    outside: Option<&Arc<BackendTls>>,
) -> Option<Arc<BackendTls>> {
    match hop {
        Hop::SameNode(pod) => snapshot.inbound(&pod.pod.workload, port).tls,
        Hop::Plain { .. } => outside.cloned(),
        Hop::OtherNode { .. } => None,
    }
}

/// What the endpoint behind `hop` is told of `ends` where it is outside of the mesh: there nobody else could say it.
pub(super) fn introduction(hop: &Hop, outside: Option<ProxyProtocol>, ends: Ends) -> Option<ProxyHeader> {
    match hop {
        Hop::Plain { .. } => {
            outside.map(|version| proxy_header::introduce(version, ends.client, ends.original))
        }
        Hop::SameNode(_) | Hop::OtherNode { .. } => None,
    }
}

/// `connecting`, and the header on it, if there is one: before TLS, as the protocol has it.
pub(super) fn introduced(mesh: &Mesh, header: Option<&ProxyHeader>, connecting: Connecting) -> Connecting {
    let Some(header) = header.cloned() else {
        return connecting;
    };
    let limit = mesh.settings.connect_timeout;
    Box::pin(async move { proxy_header::begin(connecting.await?, &header, limit).await })
}

/// `connecting`, and TLS on it where `tls` asks for it, in the name of `pod`.
pub(super) fn over(
    mesh: &Arc<Mesh>,
    pod: &Arc<ServedPod>,
    tls: Option<&Arc<BackendTls>>,
    alpn: BackendAlpn,
    connecting: Connecting,
) -> Connecting {
    let Some(tls) = tls.cloned() else {
        return connecting;
    };
    let (mesh, pod) = (Arc::clone(mesh), Arc::clone(pod));
    Box::pin(async move {
        let client = mesh.backends.client(&tls, alpn).map_err(DialError::Backend)?;
        let stream = connecting.await?;
        let limit = mesh.settings.connect_timeout;
        let permit = pod.handshakes.outbound.admitted(limit).await;
        let _permit = permit.map_err(|too_many| {
            pod.crowded(&mesh, Direction::Outbound, too_many);
            DialError::Crowded(too_many)
        })?;
        let begun = backend::begin(stream, (client.config, client.name), &mesh.workshop, limit).await;
        match &begun {
            Ok(_) => client.handshakes.succeeded(),
            Err(error) => {
                client.handshakes.failed(error);
                tracing::debug!(%error, cause = ?error, name = tls.name.as_deref(), "no tls with a backend");
            }
        }
        Ok::<Box<dyn ByteStream>, _>(Box::new(begun?))
    })
}

/// What is said to be spoken inside.
pub(super) const fn alpn(wire: Wire) -> BackendAlpn {
    match wire {
        Wire::H1 => BackendAlpn::H1,
        Wire::H2 => BackendAlpn::H2,
    }
}
