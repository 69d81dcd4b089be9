//! Asks those outside of the snapshot who may refuse a request that reaches a pod of this node.
//!
//! Place in the walk: after the plan of an attempt, before anything of it is sent: an extension provider, which may change
//! the request; then what counts requests, since one that is refused anyhow is not counted. Must not know: their protocols.

pub(super) mod authenticate;
pub(in crate::proxy) mod check;
pub(in crate::proxy) mod external;
pub(super) mod gate;
pub(super) mod limit;

use std::sync::Arc;

use http::Request;

use crate::proxy::Mesh;
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::plan::Plan;
use crate::proxy::refusal::Refusal;

/// Lets `request` in, changed as they say, or refuses it. Cancel-safe: what is being asked is given up.
pub(super) async fn admit(
    mesh: &Arc<Mesh>,
    request: &mut Request<Upload>,
    plan: &mut Plan,
) -> Result<(), Refusal> {
    external::admit(mesh, request, plan).await?;
    limit::admit(mesh, request, plan).await
}
