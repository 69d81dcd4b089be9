//! Whether the application of a pod of this node takes connections, asked by the agent of another node.
//!
//! Place in the walk: where a request comes in from an agent, before it is planned. Must not know: why it is asked.
//!
//! A TCP connection through two agents is open before its application has been reached, so that it cannot tell. The
//! question is a request that no application ever sees, on a connection that proved an identity of the mesh; who may
//! not open a TCP connection gets no answer either.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};

use crate::identity::Alpn;
use crate::mesh::identity::SpiffeId;
use crate::proxy::hop::Hop;
use crate::proxy::inbound::visit;
use crate::proxy::pods::ServedPod;
use crate::proxy::refusal::Refusal;
use crate::proxy::{Ends, Mesh};

/// Whether a request asks so.
pub(super) fn is_asked(request: &Request<impl Sized>, peer: Option<&SpiffeId>) -> bool {
    peer.is_some() && request.headers().get(ASKED).is_some_and(|asked| *asked == TCP)
}

/// Connects, and says that it could.
pub(super) async fn answer(
    mesh: &Arc<Mesh>,
    pod: &Arc<ServedPod>,
    ends: Ends,
    peer: Option<&SpiffeId>,
) -> Result<Response<Bytes>, Refusal> {
    let visit = visit(pod, ends, peer);
    let arrival = visit.arrival();
    arrival
        .judge_bytes(&mesh.snapshots.load())
        .inspect_err(|refusal| arrival.refused(mesh, refusal))?;
    let hop = Hop::SameNode(Arc::clone(pod));
    let connecting = hop.connect(mesh, pod, ends.client, ends.original, Alpn::H2);
    drop(connecting.await?);
    let mut response = Response::new(Bytes::new());
    response.headers_mut().insert(ASKED, TCP);
    Ok(response)
}

/// In the question, and in the answer: an application that sees it by mistake does not answer so.
pub(super) const ASKED: HeaderName = HeaderName::from_static("x-mesh-agent-reach");
pub(super) const TCP: HeaderValue = HeaderValue::from_static("tcp");
