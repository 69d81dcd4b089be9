//! The body of a request as it is read from whoever sends it: counted, copied for mirrors, and given once more where its
//! beginning was looked at before it is sent on.
//!
//! Place in the walk: under the body of every request. Must not know: where the request goes, how often.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::proxy::http::body::copied::{CopiedBody, Feeds};
use crate::proxy::http::body::held::Share;
use crate::proxy::http::ledger::Ledger;
use crate::proxy::http::strict::clean_trailers;
use crate::transport::http::BodyError;

/// A request body that gives what was looked at of it once more.
#[derive(Debug)]
pub(in crate::proxy::http) struct Inflow<B = Incoming> {
    rest: B,
    ledger: Arc<Ledger>,
    feeds: Feeds,
    /// What was looked at and is still to be given.
    read: VecDeque<Frame<Bytes>>,
    /// The body ended, or failed, while it was looked at.
    end: Option<Result<(), BodyError>>,
    /// What it holds while nobody asks for it.
    share: Option<Share>,
}

impl<B> Inflow<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    /// What `ledger` is told of.
    pub(in crate::proxy::http) fn new(rest: B, ledger: Arc<Ledger>) -> Self {
        Self {
            rest,
            ledger,
            feeds: Feeds::default(),
            read: VecDeque::new(),
            end: None,
            share: None,
        }
    }

    /// The same, on the account of a pod. A body that finds no room there fails when it is read.
    pub(in crate::proxy::http) fn counted(mut self, share: Share) -> Self {
        self.share = Some(share);
        self.may_stand_still();
        self
    }

    /// Whoever reads may ask for no more from now on.
    fn may_stand_still(&mut self) {
        let is_more = self.end.is_none() && !self.rest.is_end_stream();
        let Some(share) = self.share.as_mut().filter(|_| is_more) else {
            return;
        };
        if !share.may_stand_still(&self.rest.size_hint()) {
            self.ledger.laden(share);
            self.end = Some(Err("the pod's bodies hold too much memory".into()));
        }
    }

    /// A copy of a body of which nothing was given yet; what was looked at of it is copied too.
    pub(in crate::proxy::http) fn copy(&mut self) -> CopiedBody {
        let mut feeds = std::mem::take(&mut self.feeds);
        let copy = feeds.copy(&*self, &self.read);
        match &self.end {
            None => self.feeds = feeds,
            Some(Ok(())) => feeds.end(),
            // Whoever reads the copy learns that it broke off.
            Some(Err(_)) => drop(feeds),
        }
        copy
    }

    /// Reads until more than `limit` bytes are known or the body ends. Cancel-safe: what was read stays.
    pub(in crate::proxy::http) fn poll_peek(&mut self, limit: usize, cx: &mut Context<'_>) -> Poll<()> {
        while self.end.is_none() && self.known() <= limit {
            match ready!(self.poll_rest(cx)) {
                Some(Ok(frame)) => self.read.push_back(frame),
                Some(Err(error)) => self.end = Some(Err(error)),
                None => self.end = Some(Ok(())),
            }
        }
        Poll::Ready(())
    }

    /// What was looked at and is still to be given.
    pub(in crate::proxy::http) fn peeked(&self) -> impl Iterator<Item = &Bytes> {
        self.read.iter().filter_map(Frame::data_ref)
    }

    fn known(&self) -> usize {
        self.peeked().map(Bytes::len).sum()
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(mut frame) = Pin::new(&mut self.rest).poll_frame(cx) else {
            if let Some(share) = &mut self.share {
                share.caught_up();
            }
            return Poll::Pending;
        };
        if let Some(Ok(frame)) = &mut frame {
            if let Some(trailers) = frame.trailers_mut() {
                clean_trailers(trailers);
            }
            let len = frame.data_ref().map_or(0, Bytes::len);
            self.ledger.request_bytes(u64::try_from(len).unwrap_or(u64::MAX));
            self.feeds.pass_on(frame);
        }
        if frame.is_none() || self.rest.is_end_stream() {
            self.ledger.request_is_whole();
            self.feeds.end();
            self.share = None;
        }
        self.may_stand_still();
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}

impl<B> Body for Inflow<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.end.take() {
            Some(end) => {
                self.end = Some(Ok(()));
                Poll::Ready(end.err().map(Err))
            }
            None => self.poll_rest(cx),
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
            None => longer(&self.rest.size_hint(), read),
        }
    }
}

/// `hint` for so many bytes more.
pub(in crate::proxy::http) fn longer(hint: &SizeHint, more: u64) -> SizeHint {
    let mut longer = SizeHint::new();
    longer.set_lower(hint.lower().saturating_add(more));
    if let Some(upper) = hint.upper() {
        longer.set_upper(upper.saturating_add(more));
    }
    longer
}

/// The first `limit` bytes of `parts`, and whether there are more.
pub(in crate::proxy::http) fn beginning<'b>(
    parts: impl Iterator<Item = &'b Bytes>,
    limit: usize,
) -> (Bytes, bool) {
    let mut beginning = BytesMut::new();
    for part in parts {
        beginning.extend_from_slice(part);
    }
    let is_more = beginning.len() > limit;
    beginning.truncate(limit);
    (beginning.freeze(), is_more)
}
