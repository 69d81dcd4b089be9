//! How the next hop is reached: in this process, through the agent of another node, or in plaintext.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::identity::{Alpn, HandshakeFailure};
use crate::mesh::identity::SpiffeId;
use crate::mesh::policy::MtlsMode;
use crate::mesh::workload::{Workload, WorkloadUid};
use crate::proxy::Mesh;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::telemetry::{Direction, HandshakeSide, PathTaken, Security};
use crate::transport::deliver::deliver;
use crate::transport::dial::{Origin, dial};
use crate::transport::tls::{self, MeshPeer};
use crate::transport::{ByteStream, DialError};

/// The way to one endpoint.
#[derive(Debug, Clone)]
pub enum Hop {
    /// An enrolled pod of this node: delivered straight into its namespace.
    SameNode(Arc<ServedPod>),
    /// An enrolled pod of another node: mTLS with its agent, which must prove this identity.
    OtherNode {
        /// What discovery gives for the destination pod.
        expected: SpiffeId,
        /// The destination pod.
        uid: WorkloadUid,
    },
    /// In plaintext: not in the mesh, or a pod of another node that takes no mTLS.
    Plain {
        /// The destination pod, when it is enrolled.
        uid: Option<WorkloadUid>,
    },
}

impl Hop {
    /// Decides how `workload`, the owner of an endpoint's address, is reached on `port`: one that the pod's annotations
    /// exclude in plaintext, as its application takes such connections itself, and one where PeerAuthentication says
    /// DISABLE too, as Istio's clients do by themselves.
    ///
    /// An enrolled pod of this node that has not joined yet is refused: plaintext would go round its policies.
    pub fn decide(
        mesh: &Mesh,
        snapshot: &Snapshot,
        workload: Option<&Arc<Workload>>,
        port: u16,
    ) -> Result<Self, Refusal> {
        let Some(workload) = workload.filter(|workload| workload.is_meshed_at(port)) else {
            return Ok(Self::Plain { uid: None });
        };
        if workload.node == mesh.settings.node {
            return mesh
                .pods
                .find(&workload.uid)
                .map(Self::SameNode)
                .ok_or(Refusal::NotEnrolled);
        }
        if snapshot.mtls_mode(workload, port) == MtlsMode::Disable {
            let uid = Some(workload.uid.clone());
            return Ok(Self::Plain { uid });
        }
        Ok(Self::OtherNode {
            expected: workload.identity.clone(),
            uid: workload.uid.clone(),
        })
    }

    /// How telemetry names the path.
    pub fn path(&self) -> PathTaken {
        match self {
            Self::SameNode(_) => PathTaken::SameNode,
            Self::OtherNode { .. } => PathTaken::OtherNode,
            Self::Plain { .. } => PathTaken::Plain,
        }
    }

    /// What protects the bytes on this hop.
    pub fn security(&self) -> Security {
        match self {
            Self::SameNode(_) => Security::InProcess,
            Self::OtherNode { .. } => Security::MutualTls,
            Self::Plain { .. } => Security::None,
        }
    }

    /// The destination pod, when it is enrolled.
    pub fn uid(&self) -> Option<WorkloadUid> {
        match self {
            Self::SameNode(pod) => Some(pod.pod.workload.uid.clone()),
            Self::OtherNode { uid, .. } => Some(uid.clone()),
            Self::Plain { uid } => uid.clone(),
        }
    }

    /// Opens a byte stream to `addr` over this hop for the pod `source`, whose application is `client`.
    pub fn connect(
        &self,
        mesh: &Arc<Mesh>,
        source: &Arc<ServedPod>,
        client: SocketAddr,
        addr: SocketAddr,
        alpn: Alpn,
    ) -> BoxFuture<'static, Result<Box<dyn ByteStream>, DialError>> {
        let (hop, mesh, source) = (self.clone(), Arc::clone(mesh), Arc::clone(source));
        Box::pin(async move {
            let limit = mesh.settings.connect_timeout;
            let origin = Origin {
                netns: &source.pod.netns,
                own_end: alpn.is_of_one_client().then_some(client),
            };
            let stream: Box<dyn ByteStream> = match hop {
                Self::SameNode(pod) => {
                    let client = source.client_like(client, addr);
                    let delivery = deliver(&pod.pod, addr, client, limit).await?;
                    Box::new(match alpn {
                        Alpn::Tcp => delivery.relayed(&pod.pod, addr),
                        Alpn::H1 | Alpn::H2 => delivery,
                    })
                }
                Self::OtherNode { expected, .. } => {
                    let ours = mesh
                        .certificates
                        .tls(&source.pod.workload.identity)
                        .ok_or(DialError::NoCertificate)?;
                    let peer = MeshPeer {
                        ours: &ours,
                        expected: &expected,
                        alpn,
                        revocations: mesh.certificates.revocations(),
                        workshop: &source.handshakes.workshop,
                    };
                    let permit = source.handshakes.outbound.admitted(limit).await;
                    let _permit = permit.map_err(|too_many| {
                        source.crowded(&mesh, Direction::Outbound, too_many);
                        DialError::Crowded(too_many)
                    })?;
                    let connected = tls::connect(origin, addr, peer, limit).await;
                    if let Err(DialError::Handshake(error)) = &connected {
                        let reason = HandshakeFailure::of(error).as_str();
                        tracing::debug!(reason, %error, %addr, "mTLS handshake failed");
                        mesh.telemetry
                            .mesh()
                            .handshake_failed(HandshakeSide::Client, reason);
                    }
                    Box::new(connected?)
                }
                Self::Plain { .. } => Box::new(dial(origin, addr, limit).await?),
            };
            Ok(stream)
        })
    }
}
