//! The body of a client's request, of which the beginning may have been looked at before it is sent on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// A request body that gives what was read of it once more.
#[derive(Debug)]
pub(super) struct Inflow {
    read: VecDeque<Frame<Bytes>>,
    rest: Incoming,
    /// The body ended, or failed, while it was looked at.
    end: Option<Result<(), hyper::Error>>,
}

impl From<Incoming> for Inflow {
    fn from(rest: Incoming) -> Self {
        Self {
            read: VecDeque::new(),
            rest,
            end: None,
        }
    }
}

impl Inflow {
    /// Reads until `limit` bytes are known or the body ends; the first `limit` bytes, and whether there are more.
    ///
    /// Waits for the client as long as the caller does. Cancel-safe: what was read stays.
    pub(super) async fn peek(&mut self, limit: usize) -> (Bytes, bool) {
        while self.end.is_none() && self.known() <= limit {
            match self.rest.frame().await {
                Some(Ok(frame)) => self.read.push_back(frame),
                Some(Err(error)) => self.end = Some(Err(error)),
                None => self.end = Some(Ok(())),
            }
        }
        let mut peeked = BytesMut::new();
        for data in self.read.iter().filter_map(Frame::data_ref) {
            peeked.extend_from_slice(data);
        }
        let is_more = peeked.len() > limit;
        peeked.truncate(limit);
        (peeked.freeze(), is_more)
    }

    fn known(&self) -> usize {
        self.read.iter().filter_map(Frame::data_ref).map(Bytes::len).sum()
    }
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(frame) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.end.take() {
            Some(Ok(())) => {
                self.end = Some(Ok(()));
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.end = Some(Ok(()));
                Poll::Ready(Some(Err(error)))
            }
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_over = match &self.end {
            Some(end) => end.is_ok(),
            None => self.rest.is_end_stream(),
        };
        self.read.is_empty() && is_over
    }

    fn size_hint(&self) -> SizeHint {
        let read = u64::try_from(self.known()).unwrap_or(u64::MAX);
        match &self.end {
            Some(Ok(())) => SizeHint::with_exact(read),
            Some(Err(_)) => SizeHint::default(),
            None => {
                let rest = self.rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(read));
                }
                hint
            }
        }
    }
}
