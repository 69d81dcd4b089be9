//! Copies of a request's body for mirrors, which never make the request itself wait.
//!
//! Place in the walk: filled where a body is read, read by a mirror's request. Must not know: who the mirrors are.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Where the copies of one body go; none for most.
#[derive(Debug, Default)]
pub(in crate::proxy::http) struct Feeds(Vec<Feed>);

/// The end at which one copy is filled; dropped before the body's end, it leaves the copy broken off.
#[derive(Debug)]
struct Feed {
    pieces: UnboundedSender<Piece>,
    lag: Arc<Lag>,
}

/// How far a copy is behind.
#[derive(Debug, Default)]
pub(in crate::proxy::http) struct Lag {
    /// Bytes that wait in it, and something for each frame.
    waiting: AtomicUsize,
    is_too_much: AtomicBool,
}

impl Lag {
    /// Whether the copy was given up for it.
    pub(in crate::proxy::http) fn is_too_much(&self) -> bool {
        self.is_too_much.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
enum Piece {
    Frame(Frame<Bytes>),
    End,
}

/// A copy of a body. Bounded: when more than [`MAX_BEHIND`] bytes wait in it, it gets no more.
#[derive(Debug)]
pub(in crate::proxy::http) struct CopiedBody {
    pieces: UnboundedReceiver<Piece>,
    lag: Arc<Lag>,
    hint: SizeHint,
    is_over: bool,
}

/// Why a copy is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy::http) enum BrokenOff {
    /// The mirror reads too slowly.
    #[error("the copy is too far behind")]
    Behind,
    /// The body itself was not sent to its end.
    #[error("the body that is copied broke off")]
    Original,
}

impl Feeds {
    /// A copy of `body`: of what was `read` of it already, and of all that is read from now on.
    pub(in crate::proxy::http) fn copy(
        &mut self,
        body: &impl Body,
        read: &VecDeque<Frame<Bytes>>,
    ) -> CopiedBody {
        let (sender, receiver) = unbounded_channel();
        let lag = Arc::<Lag>::default();
        let is_over = body.is_end_stream();
        let feed = Feed {
            pieces: sender,
            lag: Arc::clone(&lag),
        };
        if !is_over && read.iter().all(|frame| feed.push(frame)) {
            self.0.push(feed);
        }
        CopiedBody {
            pieces: receiver,
            lag,
            hint: body.size_hint(),
            is_over,
        }
    }

    /// `frame` was read.
    pub(in crate::proxy::http) fn pass_on(&mut self, frame: &Frame<Bytes>) {
        self.0.retain(|feed| feed.push(frame));
    }

    /// The body was read to its end.
    pub(in crate::proxy::http) fn end(&mut self) {
        for feed in self.0.drain(..) {
            // Nobody is left who would read it.
            let _gone = feed.pieces.send(Piece::End);
        }
    }
}

impl Feed {
    /// Whether the copy goes on.
    fn push(&self, frame: &Frame<Bytes>) -> bool {
        let size = weight(frame);
        if self.lag.waiting.fetch_add(size, Ordering::Relaxed) + size > MAX_BEHIND {
            self.lag.is_too_much.store(true, Ordering::Relaxed);
            return false;
        }
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Frame::data(data.clone()),
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return true,
        };
        self.pieces.send(Piece::Frame(copy)).is_ok()
    }
}

impl CopiedBody {
    /// How far it is behind, to be asked when it is gone.
    pub(in crate::proxy::http) fn lag(&self) -> Arc<Lag> {
        Arc::clone(&self.lag)
    }
}

impl Body for CopiedBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Frame(frame)) => {
                self.lag.waiting.fetch_sub(weight(&frame), Ordering::Relaxed);
                let len = frame.data_ref().map_or(0, Bytes::len);
                let left = u64::try_from(len).ok().zip(self.hint.exact());
                if let Some((len, exact)) = left {
                    self.hint.set_exact(exact.saturating_sub(len));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Piece::End) => {
                self.is_over = true;
                Poll::Ready(None)
            }
            None => {
                self.is_over = true;
                Poll::Ready(Some(Err(if self.lag.is_too_much() {
                    BrokenOff::Behind
                } else {
                    BrokenOff::Original
                })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// Frames without bytes must not pile up either.
fn weight(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len) + FRAME
}

/// How much of a body may wait for a mirror that is slow.
pub(in crate::proxy::http) const MAX_BEHIND: usize = 64 * 1024;
const FRAME: usize = 64;

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty, Full};

    use super::*;

    fn data(len: usize) -> Frame<Bytes> {
        Frame::data(vec![7; len].into())
    }

    fn copied(feeds: &mut Feeds) -> CopiedBody {
        feeds.copy(&Full::new(Bytes::from_static(b"something")), &VecDeque::new())
    }

    #[tokio::test]
    async fn a_copy_is_what_was_read_with_its_trailers() {
        let mut feeds = Feeds::default();
        let copy = copied(&mut feeds);
        feeds.pass_on(&data(3));
        feeds.pass_on(&data(6));
        let mut trailers = http::HeaderMap::new();
        trailers.insert("end", "1".parse().unwrap());
        feeds.pass_on(&Frame::trailers(trailers));
        feeds.end();
        let copy = copy.collect().await.unwrap();
        assert_eq!(copy.trailers().unwrap()["end"], "1");
        assert_eq!(copy.to_bytes().as_ref(), [7; 9]);
    }

    #[tokio::test]
    async fn a_copy_that_is_too_far_behind_gets_no_more_and_is_no_shorter_body() {
        let mut feeds = Feeds::default();
        let (slow, mut quick) = (copied(&mut feeds), copied(&mut feeds));
        for _ in 0..8 {
            feeds.pass_on(&data(MAX_BEHIND / 4));
            quick.frame().await.unwrap().unwrap();
        }
        feeds.end();
        assert_eq!(slow.collect().await.unwrap_err(), BrokenOff::Behind);
        assert!(quick.frame().await.is_none(), "the other one is whole");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_breaks_its_copies_off() {
        let mut feeds = Feeds::default();
        let copy = copied(&mut feeds);
        feeds.pass_on(&data(3));
        drop(feeds);
        assert_eq!(copy.collect().await.unwrap_err(), BrokenOff::Original);
    }

    #[test]
    fn the_copy_of_no_body_is_none() {
        let copy = Feeds::default().copy(&Empty::<Bytes>::new(), &VecDeque::new());
        assert!(copy.is_end_stream());
        assert_eq!(copy.size_hint().exact(), Some(0));
    }
}
