//! Bodies on their way through: passed on frame by frame, never buffered, counted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::balance::Pick;
use crate::proxy::http::ledger::Ledger;
use crate::telemetry::ResponseFlag;
use crate::transport::http::BodyError;
use crate::transport::pool::Leased;

/// A request body that counts what passes.
#[derive(Debug)]
pub(super) struct RequestBody {
    inner: Incoming,
    ledger: Arc<Ledger>,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, ledger: Arc<Ledger>) -> Self {
        Self { inner, ledger }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.ledger.request_bytes(data_len(frame));
        }
        if frame.is_none() || self.inner.is_end_stream() {
            self.ledger.request_is_whole();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body: counts, sees gRPC trailers, holds the endpoint's unit of load and the route's deadline.
#[derive(Debug)]
pub(super) struct ResponseBody {
    inner: Leased,
    ledger: Arc<Ledger>,
    deadline: Option<Pin<Box<Sleep>>>,
    ended: bool,
    _pick: Option<Pick>,
}

impl ResponseBody {
    pub(super) fn new(
        inner: Leased,
        ledger: Arc<Ledger>,
        deadline: Option<Instant>,
        pick: Option<Pick>,
    ) -> Self {
        let ended = inner.is_end_stream();
        Self {
            inner,
            ledger,
            deadline: deadline.map(|at| Box::pin(sleep_until(at))),
            ended,
            _pick: pick,
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            match &frame {
                Some(Ok(frame)) => {
                    self.ledger.response_bytes(data_len(frame));
                    if let Some(trailers) = frame.trailers_ref() {
                        self.ledger.grpc_status_in(trailers);
                    }
                    self.ended |= self.inner.is_end_stream();
                }
                Some(Err(_)) => {
                    self.ended = true;
                    self.ledger
                        .flag(ResponseFlag::Uc, "upstream_reset_after_response_started");
                }
                None => self.ended = true,
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        if let Some(deadline) = &mut self.deadline {
            ready!(deadline.as_mut().poll(cx));
            self.ended = true;
            self.ledger.flag(ResponseFlag::Ut, "response_timeout");
            return Poll::Ready(Some(Err(
                "the route's request timeout passed during the response".into(),
            )));
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

fn data_len(frame: &Frame<Bytes>) -> u64 {
    frame
        .data_ref()
        .map_or(0, |data| u64::try_from(data.remaining()).unwrap_or(u64::MAX))
}
