//! The connection of one request that asks to change protocol: HTTP/1.1, or HTTP/2 where the server is spoken to in that
//! and takes extended CONNECT (RFC 8441).
//!
//! Place in the walk: below the change of protocol, in place of the pool. Must not know: what follows the change.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response};
use hyper::body::Incoming;

use crate::identity::{Alpn, BackendAlpn};
use crate::proxy::Mesh;
use crate::proxy::backend;
use crate::proxy::breaker::limited;
use crate::proxy::hop::Hop;
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::extended::{can_be_extended, extend, restore};
use crate::proxy::http::forward::{ready, within};
use crate::proxy::http::plan::Plan;
use crate::proxy::refusal::Refusal;
use crate::transport::http::{H1Sender, H2Sender, frame_for_h1, start_extended, start_h1};
use crate::transport::pool::{Cut, Wire};

/// What an endpoint answered on a connection of the request's own.
pub(super) struct Answered {
    /// As over HTTP/1.1: an endpoint that agrees switches protocols.
    pub(super) response: Response<Incoming>,
    /// Completes when a certificate of the connection is called back.
    pub(super) revoked: BoxFuture<'static, ()>,
    /// Asks it to end when its endpoint went away.
    pub(super) cut: Cut,
}

/// Sends a request for `protocol`, and waits for the head of the response.
pub(super) async fn send(
    mesh: &Arc<Mesh>,
    request: Request<Upload>,
    plan: &Plan,
    protocol: HeaderValue,
) -> Result<Answered, Refusal> {
    let connect = limited(plan.breakers.as_ref(), || {
        let connecting = plan
            .hop
            .connect(mesh, &plan.via, plan.client, plan.addr, Alpn::H1);
        let connecting = backend::introduced(mesh, plan.proxied.as_ref(), connecting);
        backend::over(mesh, &plan.via, plan.tls.as_ref(), BackendAlpn::H1, connecting)
    });
    let cut = plan.via.pool.cut_of(plan.hop.uid(), plan.addr);
    // The agent of another node is asked over HTTP/1.1, and told what the application speaks.
    // An application that speaks TLS has agreed on HTTP/1.1 in its handshake.
    let is_last = !matches!(plan.hop, Hop::OtherNode { .. }) && plan.tls.is_none();
    if is_last && plan.wire == Wire::H2 && can_be_extended(&request, &protocol) {
        let stream = within(plan.first_deadline(), connect()).await??;
        let revoked = stream.revoked();
        let starting = start_extended(&plan.via.tasks, stream, Arc::clone(&cut));
        if let Some(sender) = within(plan.first_deadline(), starting).await?? {
            let response = send_extended(sender, request, plan).await?;
            return Ok(Answered {
                response,
                revoked,
                cut,
            });
        }
    }
    let stream = within(plan.first_deadline(), connect()).await??;
    let revoked = stream.revoked();
    let sender = start_h1(&plan.via.tasks, stream, Arc::clone(&cut)).await?;
    let response = send_h1(sender, request, plan, protocol).await?;
    Ok(Answered {
        response,
        revoked,
        cut,
    })
}

async fn send_h1(
    mut sender: H1Sender,
    request: Request<Upload>,
    plan: &Plan,
    protocol: HeaderValue,
) -> Result<Response<Incoming>, Refusal> {
    let mut request = ready(request, plan, Wire::H1)?;
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
    frame_for_h1(&mut request);
    within(plan.first_deadline(), sender.send_request(request))
        .await?
        .map_err(Refusal::Broken)
}

async fn send_extended(
    mut sender: H2Sender,
    request: Request<Upload>,
    plan: &Plan,
) -> Result<Response<Incoming>, Refusal> {
    let mut request = ready(request, plan, Wire::H2)?;
    let key = extend(&mut request);
    let mut response = within(plan.first_deadline(), sender.send_request(request))
        .await?
        .map_err(Refusal::Broken)?;
    restore(&mut response, key.as_ref())?;
    Ok(response)
}
