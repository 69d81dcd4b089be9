//! Response bodies on their way through: passed on frame by frame, never buffered, counted.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use http_body::{Frame, SizeHint};
use hyper::body::Body as _;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::balance::Pick;
use crate::proxy::Mesh;
use crate::proxy::arrival::Visit;
use crate::proxy::conduct;
use crate::proxy::http::body::held::Share;
use crate::proxy::http::connection::silence::Wait;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::strict::clean_trailers;
use crate::proxy::live::until_refused;
use crate::proxy::refusal::{Refusal, STREAM_IDLE};
use crate::telemetry::ResponseFlag;
use crate::transport::http::BodyError;
use crate::transport::pool::Leased;

/// A response body: counts, sees gRPC trailers, holds the endpoint's unit of load and the route's deadline.
#[derive(Debug)]
pub(in crate::proxy::http) struct ResponseBody {
    inner: Leased,
    ledger: Arc<Ledger>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Begun when somebody has to wait.
    silence: Option<Wait>,
    watch: Option<Watch>,
    ended: bool,
    pick: Option<Pick>,
    /// What it holds while nobody asks for it.
    share: Share,
}

impl ResponseBody {
    pub(in crate::proxy::http) fn new(
        inner: Leased,
        ledger: Arc<Ledger>,
        deadline: Option<Instant>,
        pick: Option<Pick>,
        watch: Option<Watch>,
        share: Share,
    ) -> Self {
        let ended = inner.is_end_stream();
        Self {
            inner,
            ledger,
            deadline: deadline.map(|at| Box::pin(sleep_until(at))),
            silence: None,
            watch,
            ended,
            pick,
            share,
        }
    }

    /// Whether nothing moved for as long as nothing may; else the task is woken when that may be so.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let pulse = self.ledger.pulse();
        let wait = self.silence.get_or_insert_with(|| pulse.wait());
        wait.poll(pulse, cx).is_ready()
    }

    /// Fails where the reader may ask for no more from now on, and there is no room for what would wait for it.
    fn may_stand_still(&mut self) -> Result<(), BodyError> {
        if self.ended {
            self.share.caught_up();
            return Ok(());
        }
        if self.share.may_stand_still(&self.inner.size_hint()) {
            return Ok(());
        }
        self.ended = true;
        self.ledger.laden(&self.share);
        Err("the pod's bodies hold too much memory".into())
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(mut frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            match &mut frame {
                Some(Ok(frame)) => {
                    self.ledger.response_bytes(data_len(frame));
                    if let Some(trailers) = frame.trailers_mut() {
                        clean_trailers(trailers);
                        self.ledger.grpc_status_in(trailers);
                        conduct::ended(self.pick.as_mut(), trailers);
                    }
                    self.ended |= self.inner.is_end_stream();
                }
                Some(Err(_)) => {
                    self.ended = true;
                    conduct::broken(self.pick.as_mut());
                    self.ledger
                        .flag(ResponseFlag::Uc, "upstream_reset_after_response_started");
                }
                None => self.ended = true,
            }
            if let Err(error) = self.may_stand_still() {
                return Poll::Ready(Some(Err(error)));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        self.share.caught_up();
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.ended = true;
            self.ledger.flag(ResponseFlag::Ut, "response_timeout");
            return Poll::Ready(Some(Err(
                "the route's request timeout passed during the response".into(),
            )));
        }
        if self.is_silent(cx) {
            self.ended = true;
            self.ledger.flag(ResponseFlag::Si, STREAM_IDLE);
            return Poll::Ready(Some(Err("nothing of the request moved for too long".into())));
        }
        if let Some(watch) = &mut self.watch {
            let refusal = ready!(watch.poll(cx));
            self.ended = true;
            self.ledger.flag(refusal.flag(), refusal.details());
            return Poll::Ready(Some(Err("policy changed during the response".into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if !self.ended {
            self.ledger.flag(ResponseFlag::Dc, "downstream_remote_disconnect");
        }
    }
}

/// Waits for a policy that forbids what is under way between two pods of this node; begun only when a response keeps
/// its client waiting, since most do not.
pub(in crate::proxy::http) enum Watch {
    /// Nobody has had to wait yet.
    Idle(Arc<Mesh>, Visit),
    /// Somebody waits.
    Waiting(BoxFuture<'static, Refusal>),
}

impl Watch {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        if let Self::Idle(mesh, visit) = self {
            let (mesh, visit) = (Arc::clone(mesh), visit.clone());
            *self = Self::Waiting(Box::pin(async move {
                let arrival = visit.arrival();
                let refusal = until_refused(&mesh, |snapshot| arrival.judge_connection(snapshot)).await;
                arrival.refused(&mesh, &refusal);
                refusal
            }));
        }
        match self {
            Self::Waiting(refused) => refused.as_mut().poll(cx),
            Self::Idle(..) => Poll::Pending,
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

fn data_len(frame: &Frame<Bytes>) -> u64 {
    frame
        .data_ref()
        .map_or(0, |data| u64::try_from(data.remaining()).unwrap_or(u64::MAX))
}
