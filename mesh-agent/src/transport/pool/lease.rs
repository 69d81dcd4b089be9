//! A response body that holds its connection, and gives it back when it was read to the end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::{Body, Incoming};

use crate::transport::http::H1Sender;
use crate::transport::pool::{H1Shelves, PoolKey};

/// A response body on a connection of the pool.
#[derive(Debug)]
pub struct Leased {
    body: Incoming,
    lease: Lease,
    /// What was looked at and is still to be given.
    first: Option<Box<First>>,
}

/// The first frame of a body, or that there is none.
type First = Option<Result<Frame<Bytes>, hyper::Error>>;

#[derive(Debug)]
enum Lease {
    H1(Option<H1Lease>),
    /// A connection of its own, never given back.
    None,
    H2 {
        #[expect(dead_code, reason = "held: counts the stream until the body is dropped")]
        stream: H2Lease,
    },
}

impl Leased {
    pub(super) fn h1(body: Incoming, lease: H1Lease) -> Self {
        let mut leased = Self {
            body,
            lease: Lease::H1(Some(lease)),
            first: None,
        };
        if leased.body.is_end_stream() {
            leased.give_back();
        }
        leased
    }

    pub(super) fn h2(body: Incoming, stream: H2Lease) -> Self {
        Self {
            body,
            lease: Lease::H2 { stream },
            first: None,
        }
    }

    /// A body on a connection that carries this one response only.
    pub fn unpooled(body: Incoming) -> Self {
        Self {
            body,
            lease: Lease::None,
            first: None,
        }
    }

    /// Waits for the first frame, which is given once more to whoever reads the body: the trailers, if no message comes
    /// before them. Cancel-safe.
    pub async fn trailers_only(&mut self) -> Result<Option<&HeaderMap>, hyper::Error> {
        if self.first.is_none() {
            let first = poll_fn(|cx| self.poll_body(cx)).await.transpose()?;
            self.first = Some(Box::new(first.map(Ok)));
        }
        let first = self.first.as_deref().and_then(Option::as_ref);
        Ok(first.and_then(|frame| frame.as_ref().ok()?.trailers_ref()))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if ended {
            self.give_back();
        }
        Poll::Ready(frame)
    }

    fn give_back(&mut self) {
        if let Lease::H1(lease) = &mut self.lease
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
    }
}

impl Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(*first),
            None => self.poll_body(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Of a body that was looked at, the head says it if anybody does.
        match self.first {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

/// An HTTP/1.1 connection in use; dropped without being given back, it is closed.
#[derive(Debug)]
pub(super) struct H1Lease {
    shelves: Arc<H1Shelves>,
    key: PoolKey,
    sender: H1Sender,
    /// Requests, with this one.
    carried: u32,
    /// Destinations that had gone away when it was taken.
    departures: u64,
}

impl H1Lease {
    pub(super) fn new(
        shelves: Arc<H1Shelves>,
        key: PoolKey,
        sender: H1Sender,
        carried: u32,
        departures: u64,
    ) -> Self {
        Self {
            shelves,
            key,
            sender,
            carried,
            departures,
        }
    }

    fn give_back(self) {
        self.shelves
            .put(self.key, self.sender, self.carried, self.departures);
    }
}

/// One stream of an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct H2Lease(Arc<AtomicU32>);

impl H2Lease {
    pub(super) fn new(streams: &Arc<AtomicU32>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
