//! Requests that ask to change protocol, WebSocket above all: each has a connection of its own.
//!
//! Between nodes it is one mTLS connection whose ALPN says HTTP/1.1, so that the bytes after the change pay no
//! second framing and the other agent still sees the request. Client and application may each speak HTTP/2.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::balance::Pick;
use crate::policy::authentication::Claims;
use crate::proxy::Mesh;
use crate::proxy::arrival::Visit;
use crate::proxy::conduct;
use crate::proxy::http::admission::admit;
use crate::proxy::http::body::upload::Upload;
use crate::proxy::http::forward::answer;
use crate::proxy::http::headers::prepare_response;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::line;
use crate::proxy::http::plan::Plan;
use crate::proxy::http::reply::switching;
use crate::proxy::live::until_refused;
use crate::proxy::outbound::DRAINED;
use crate::proxy::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::telemetry::ResponseFlag;
use crate::transport::http::Body;
use crate::transport::pool::{Cut, Leased};
use crate::transport::relay::{Meter, RelayEnd, relay};
use crate::transport::{ByteStream, never};

/// Carries a request that asks for `protocol`, if who is asked besides lets it in; when the application agrees, carries the
/// bytes that follow.
pub(super) async fn carry(
    mesh: &Arc<Mesh>,
    mut request: Request<Upload>,
    mut plan: Box<Plan>,
    ledger: &Arc<Ledger>,
    protocol: HeaderValue,
) -> Result<Response<Body>, Refusal> {
    admit(mesh, &mut request, &mut plan).await?;
    let client_side = hyper::upgrade::on(&mut request);
    let asked = Asked::of(&request, &plan);
    let is_extended = request.version() == Version::HTTP_2;
    let answered = line::send(mesh, request, &plan, protocol).await;
    let line::Answered {
        mut response,
        revoked,
        cut,
    } = answered.inspect_err(|refusal| conduct::refused(plan.pick.as_mut(), refusal))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if is_extended && response.status().is_success() {
            // To the client it would be an agreement.
            conduct::refused(plan.pick.as_mut(), &Refusal::NoAnswer);
            return Err(Refusal::NoAnswer);
        }
        return Ok(answer(mesh, response.map(Leased::unpooled), plan, ledger));
    }
    conduct::answered(plan.pick.as_mut(), &response, false);
    ledger.each(|record| record.respond(StatusCode::SWITCHING_PROTOCOLS.as_u16()));
    ledger.is_answered();
    let upstream_side = hyper::upgrade::on(&mut response);
    let mut headers = std::mem::take(response.headers_mut());
    let agreed = headers.remove(UPGRADE);
    prepare_response(&mut headers);
    if let Some(route) = &plan.route {
        route.edit_response(&mut headers);
    }
    for change in &plan.on_response {
        change.apply(&mut headers);
    }
    plan.keep_client(&mut headers);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(agreed) = agreed {
        headers.insert(UPGRADE, agreed);
    }
    let tunnel = Tunnel {
        client_side,
        upstream_side,
        ledger: Arc::clone(ledger),
        mesh: Arc::clone(mesh),
        pick: plan.pick,
        asked,
        revoked,
        cut,
    };
    plan.via.tasks.spawn("upgraded", tunnel.run());
    Ok(switching(headers))
}

/// Two connections that changed protocol together.
struct Tunnel {
    client_side: OnUpgrade,
    upstream_side: OnUpgrade,
    ledger: Arc<Ledger>,
    mesh: Arc<Mesh>,
    pick: Option<Pick>,
    asked: Option<Asked>,
    /// Of the connection that it rests on.
    revoked: BoxFuture<'static, ()>,
    /// Of the endpoint at its other end.
    cut: Cut,
}

/// What was let in at a pod of this node, to be judged again when policies change.
struct Asked {
    visit: Visit,
    head: Request<()>,
    authority: Authority,
    /// As it was when the connection changed protocol: a token that expires meanwhile ends nothing.
    token: Option<Claims>,
}

impl Asked {
    fn of(request: &Request<Upload>, plan: &Plan) -> Option<Self> {
        let visit = plan.visit.clone()?;
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        Some(Self {
            visit,
            head,
            authority: plan.authority.clone(),
            token: plan.token.clone(),
        })
    }

    async fn forbidden(asked: Option<&Self>, mesh: &Mesh) -> Refusal {
        let Some(Self {
            visit,
            head,
            authority,
            token,
        }) = asked
        else {
            return std::future::pending().await;
        };
        let arrival = visit.arrival();
        let judge = |snapshot: &Snapshot| arrival.judge_request(snapshot, head, authority, token.as_ref());
        let refusal = until_refused(mesh, judge).await;
        arrival.refused(mesh, &refusal);
        refusal
    }
}

impl Tunnel {
    async fn run(self) {
        let (client, upstream) = match tokio::try_join!(self.client_side, self.upstream_side) {
            Ok(sides) => sides,
            Err(error) => {
                tracing::debug!(%error, "a side did not change protocol");
                self.ledger.flag(ResponseFlag::Dpe, "upgrade_failed");
                return;
            }
        };
        let idle = self.mesh.settings.idle_timeout;
        let (client, upstream) = (UpgradedStream::new(client), UpgradedStream::new(upstream));
        let ended = tokio::select! {
            ended = relay(client, upstream, idle, &*self.ledger) => ended,
            () = self.revoked => {
                self.ledger.flag(Refusal::Revoked.flag(), Refusal::Revoked.details());
                return;
            }
            () = self.cut.cancelled() => {
                self.ledger.flag(ResponseFlag::Dt, DRAINED);
                return;
            }
            refusal = Asked::forbidden(self.asked.as_ref(), &self.mesh) => {
                self.ledger.flag(refusal.flag(), refusal.details());
                return;
            }
        };
        match ended {
            RelayEnd::Finished => {}
            RelayEnd::ClientFailed(_) => self.ledger.flag(ResponseFlag::Dc, "downstream_reset"),
            RelayEnd::UpstreamFailed(_) => self.ledger.flag(ResponseFlag::Uc, "upstream_reset"),
            RelayEnd::Idle => self.ledger.flag(ResponseFlag::Si, "idle_timeout"),
        }
        drop(self.pick);
    }
}

impl Meter for Ledger {
    fn sent(&self, count: u64) {
        self.request_bytes(count);
    }

    fn received(&self, count: u64) {
        self.response_bytes(count);
    }
}

/// A byte stream under an HTTP connection that changed protocol. Its socket is out of reach: a failure of the
/// other side is passed on as an early end.
struct UpgradedStream(TokioIo<Upgraded>);

impl UpgradedStream {
    fn new(upgraded: Upgraded) -> Self {
        Self(TokioIo::new(upgraded))
    }
}

impl ByteStream for UpgradedStream {
    fn reset_on_close(&self) {}

    /// Whoever changed protocol watches the connection itself.
    fn proved_until(&self) -> Option<SystemTime> {
        None
    }

    fn revoked(&self) -> BoxFuture<'static, ()> {
        never()
    }
}

impl AsyncRead for UpgradedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for UpgradedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
