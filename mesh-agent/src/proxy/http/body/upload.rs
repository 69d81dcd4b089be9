//! The body of a request on its way to one endpoint.
//!
//! Place in the walk: what a plan sends. Must not know: the plan.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::http::body::copied::CopiedBody;
use crate::proxy::http::body::inflow::{Inflow, beginning};
use crate::proxy::http::body::replay::Sending;
use crate::transport::http::BodyError;

/// A request body.
#[derive(Debug)]
pub(in crate::proxy::http) enum Upload {
    /// It is sent once.
    Once(Inflow),
    /// It may be sent again.
    Kept(Sending<Inflow>),
    /// It is a mirror's copy.
    Copied(Inflow<CopiedBody>),
}

/// A body whose beginning can be looked at before it is sent on.
pub(in crate::proxy::http) trait Shows: Send {
    /// Reads until more than `limit` bytes are known or the body ends; the first `limit` bytes, and whether there are more.
    fn poll_shown(&mut self, limit: usize, cx: &mut Context<'_>) -> Poll<(Bytes, bool)>;
}

/// The first `limit` bytes of `body`, and whether there are more.
///
/// Waits for the client as long as the caller does. Cancel-safe: what was read stays.
pub(in crate::proxy::http) async fn peek(body: &mut impl Shows, limit: usize) -> (Bytes, bool) {
    poll_fn(|cx| body.poll_shown(limit, cx)).await
}

impl Shows for Upload {
    fn poll_shown(&mut self, limit: usize, cx: &mut Context<'_>) -> Poll<(Bytes, bool)> {
        match self {
            Self::Once(body) => body.poll_shown(limit, cx),
            Self::Kept(body) => body.poll_peek(limit, cx),
            Self::Copied(body) => body.poll_shown(limit, cx),
        }
    }
}

impl<B> Shows for Inflow<B>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<BodyError>,
{
    fn poll_shown(&mut self, limit: usize, cx: &mut Context<'_>) -> Poll<(Bytes, bool)> {
        ready!(self.poll_peek(limit, cx));
        Poll::Ready(beginning(self.peeked(), limit))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Once(body) => Pin::new(body).poll_frame(cx),
            Self::Kept(body) => Pin::new(body).poll_frame(cx),
            Self::Copied(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Once(body) => body.is_end_stream(),
            Self::Kept(body) => body.is_end_stream(),
            Self::Copied(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Once(body) => body.size_hint(),
            Self::Kept(body) => body.size_hint(),
            Self::Copied(body) => body.size_hint(),
        }
    }
}
