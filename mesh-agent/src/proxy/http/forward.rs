//! Sends a request on and its response back, both streamed.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::Either;
use futures_util::{FutureExt, TryFutureExt};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout_at};

use crate::identity::Alpn;
use crate::mesh::backend_tls::BackendTls;
use crate::mesh::traffic::Reuse;
use crate::proxy::Mesh;
use crate::proxy::backend;
use crate::proxy::breaker::limited;
use crate::proxy::conduct;
use crate::proxy::hop::Hop;
use crate::proxy::http::admission::admit;
use crate::proxy::http::body::held::Share;
use crate::proxy::http::body::response::{ResponseBody, Watch};
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::headers::{ORIGINAL_VERSION, prepare, prepare_response};
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::plan::Plan;
use crate::proxy::http::reach;
use crate::proxy::http::reply;
use crate::proxy::refusal::Refusal;
use crate::transport::http::{Body, no_body};
use crate::transport::pool::{Leased, PoolKey, Wire};

/// Carries one request over a pooled connection, if who is asked besides lets it in.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn has room for its arguments twice"
)]
pub(super) fn carry<'a>(
    mesh: &'a Arc<Mesh>,
    mut request: Request<Upload>,
    mut plan: Box<Plan>,
    ledger: &'a Arc<Ledger>,
) -> impl Future<Output = Result<Response<Body>, Refusal>> + 'a {
    async move {
        admit(mesh, &mut request, &mut plan).await?;
        let response = send(mesh, request, &mut plan, ledger).await?;
        Ok(answer(mesh, response, plan, ledger))
    }
}

/// Sends a request over a pooled connection, and waits for the head of its response.
pub(super) fn send<'a>(
    mesh: &'a Arc<Mesh>,
    request: Request<Upload>,
    plan: &'a mut Plan,
    ledger: &Ledger,
) -> impl Future<Output = Result<Response<Leased>, Refusal>> + use<'a> {
    if request.body().is_end_stream() {
        ledger.request_is_whole();
    }
    let key = key_of(plan);
    let request = ready(request, plan, key.wire);
    // What it is made of needs no room while it is answered.
    async move {
        let request = request?;
        let pool = match &plan.hop {
            Hop::SameNode(pod) => &pod.pool,
            Hop::OtherNode { .. } | Hop::Plain { .. } => &plan.via.pool,
        };
        let connect = limited(plan.breakers.as_ref(), || {
            let connecting = plan
                .hop
                .connect(mesh, &plan.via, plan.client, plan.addr, Alpn::H2);
            let alpn = backend::alpn(plan.wire);
            let connecting = backend::introduced(mesh, plan.proxied.as_ref(), connecting);
            backend::over(mesh, &plan.via, plan.tls.as_ref(), alpn, connecting)
        });
        let sending = pool.send(&plan.via.tasks, &key, request, &connect);
        let sent = within(plan.first_deadline(), sending).await;
        let sent = sent.and_then(|sent| sent.map_err(Refusal::from));
        let response = sent.inspect_err(|refusal| conduct::refused(plan.pick.as_mut(), refusal))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::NoAnswer);
        }
        Ok(response)
    }
}

/// Makes the request what the next connection must see.
pub(super) fn ready(mut request: Request<Upload>, plan: &Plan, wire: Wire) -> Result<Request<Body>, Refusal> {
    prepare(&mut request, wire, &plan.authority)?;
    request.headers_mut().remove(ORIGINAL_VERSION);
    // Only agents ask so.
    request.headers_mut().remove(reach::ASKED);
    if matches!(plan.hop, Hop::OtherNode { .. }) && plan.wire != wire {
        let version = match plan.wire {
            Wire::H1 => HeaderValue::from_static("1"),
            Wire::H2 => HeaderValue::from_static("2"),
        };
        request.headers_mut().insert(ORIGINAL_VERSION, version);
    }
    identify(request.headers_mut());
    // Most have none: then there is nothing to carry, nor to keep in memory.
    Ok(request.map(|body| match body {
        Upload::Once(body) if body.is_end_stream() => no_body(),
        body @ (Upload::Once(_) | Upload::Kept(_) | Upload::Copied(_)) => body.boxed_unsync(),
    }))
}

/// Gives a request without one an id that joins the log lines of both agents and of the application.
pub(super) fn identify(headers: &mut HeaderMap) {
    if headers.contains_key(REQUEST_ID) {
        return;
    }
    // Not a secret, so the thread's own generator does, which asks the kernel once in thousands of ids.
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    if let Ok(id) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Notes the response and lets its body hold what must live as long.
pub(super) fn answer(
    mesh: &Arc<Mesh>,
    mut response: Response<Leased>,
    mut plan: Box<Plan>,
    ledger: &Arc<Ledger>,
) -> Response<Body> {
    let mut share = Share::new(&plan.via, plan.direction());
    let body = response.body();
    if !body.is_end_stream() && !share.may_stand_still(&body.size_hint()) {
        ledger.laden(&share);
        ledger.refused(&Refusal::Laden);
        return reply::refuse(&Refusal::Laden, ledger.is_grpc());
    }
    conduct::answered(plan.pick.as_mut(), &response, ledger.is_grpc());
    ledger.each(|record| record.respond(response.status().as_u16()));
    ledger.grpc_status_in(response.headers());
    prepare_response(response.headers_mut());
    if let Some(route) = &plan.route {
        route.edit_response(response.headers_mut());
    }
    for change in &plan.on_response {
        change.apply(response.headers_mut());
    }
    plan.keep_client(response.headers_mut());
    *response.version_mut() = http::Version::HTTP_11;
    let visit = plan.visit.take().filter(|visit| !visit.is_all);
    let watch = visit.map(|visit| Watch::Idle(Arc::clone(mesh), visit));
    let (deadline, pick) = (plan.deadline, plan.pick.take());
    let body = |body| ResponseBody::new(body, Arc::clone(ledger), deadline, pick, watch, share);
    response.map(|inner| body(inner).boxed_unsync())
}

/// Waits for `work`, at most until the route's deadline.
pub(super) fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> impl Future<Output = Result<T, Refusal>> {
    match deadline {
        Some(at) => Either::Left(timeout_at(at, work).map_err(|_elapsed| Refusal::TimedOut)),
        None => Either::Right(work.map(Ok)),
    }
}

fn key_of(plan: &Plan) -> PoolKey {
    let (client, wire) = match &plan.hop {
        Hop::SameNode(_) => (Some(plan.via.client_like(plan.client, plan.addr).ip()), plan.wire),
        Hop::OtherNode { .. } => (None, Wire::H2),
        Hop::Plain { .. } => (None, plan.wire),
    };
    PoolKey {
        endpoint: plan.hop.uid(),
        addr: plan.addr,
        client,
        wire,
        tls: plan.tls.as_deref().map(BackendTls::number),
        proxied: plan.proxied.clone(),
        reuse: plan
            .breakers
            .as_ref()
            .map_or_else(Reuse::default, |breakers| breakers.limits().reuse),
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
